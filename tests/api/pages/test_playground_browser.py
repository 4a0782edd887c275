"""The playground as a visitor uses it, in the system's browser."""

import pytest

from tests.api.pages.browser import NARROW, WatchedPage
from tests.api.pages.test_playground import rows_of

pytestmark = pytest.mark.slow


@pytest.fixture
def visit(chromium, plain):
    """Opens the playground of a model; at the end nothing was complained of, asked elsewhere or stored."""
    before, opened = rows_of(plain), []

    def open_page(model, **options):
        opened.append(WatchedPage(chromium, plain.url, **options))
        page = opened[-1].page
        page.watched = opened[-1]
        page.emulate_media(reduced_motion="reduce")
        opened[-1].open(f"playground?model={model}")
        page.wait_for_selector("#adapted li")
        settle(page)
        return page

    yield open_page
    for one in opened:
        assert one.complaints() == [] and one.overflow() == 0
        one.close()
    assert rows_of(plain) == before


def items(page, list="adapted"):
    return page.locator(f"#{list} li").evaluate_all("rows => rows.map(row => row.dataset.item)")


def press(page, name):
    """Press a button and wait for the list and its reasons."""
    page.get_by_role("button", name=name, exact=True).first.click()
    settle(page)


def settle(page):
    page.wait_for_selector("#playground[aria-busy=false]")


def test_two_likes_change_the_list_a_dislike_pushes_away_and_undo_restores_it(visit):
    page = visit("users")
    at_first = page.inner_html("#adapted")
    assert items(page) == items(page, "unadapted")
    for query, name in (("item 3", "Item 3"), ("item 8", "Item 8")):
        page.fill("#search", query)
        page.wait_for_selector("#matches li[data-item]")
        press(page, f"Like: {name}")
    assert items(page) != items(page, "unadapted")
    assert not {"i3", "i8"} & {*items(page), *items(page, "unadapted")}
    assert page.locator("#adapted .why span").count() > 0 and "▲" in page.inner_text("#adapted")
    two = page.inner_html("#adapted")
    disliked = items(page)[0]
    page.locator("#adapted li").first.get_by_role("button", name="Not for me").click()
    page.wait_for_selector(f"#adapted:not(:has([data-item={disliked}]))")
    settle(page)
    assert disliked not in items(page) and page.locator("#picks .disliked").count() == 1
    assert "Not for me" in page.inner_text("#news")
    press(page, "Undo")
    assert page.inner_html("#adapted") == two
    press(page, "Undo")
    press(page, "Undo")
    assert page.inner_html("#adapted") == at_first and page.is_disabled("#undo")


def test_a_group_and_questions_are_other_doors(visit):
    page = visit("users")
    page.locator(".starter").first.click()
    settle(page)
    assert page.locator("#picks li").count() == 4
    page.click("#ask")
    page.wait_for_selector("#questions li")
    assert page.locator("#questions li").count() == 5 and "%" in page.inner_text("#questions")
    page.locator("#questions button").first.click()
    settle(page)
    assert page.locator("#questions li").count() == 4 and page.locator("#picks li").count() == 5
    press(page, "Start again")
    assert page.locator("#picks li").count() == 0 and items(page) == items(page, "unadapted")


def test_clicks_move_the_chances_and_so_does_the_context(visit):
    page = visit("ads")

    def chance():
        return float(page.locator("#adapted .value").first.inner_text().rstrip("%"))

    cold = chance()
    page.locator("#adapted li").first.get_by_role("button", name="Clicked").click()
    page.wait_for_selector("#picks li")
    settle(page)
    warm = chance()
    assert warm > cold
    page.fill("[name=position]", "5")
    page.locator("[name=position]").blur()
    settle(page)
    assert chance() < warm


def test_places_stand_on_a_map_and_one_visit_makes_the_next_likely(visit):
    page = visit("cities")
    assert page.locator("#map .place").count() == 5
    radius = "node => Number(node.querySelector('.disc').getAttribute('r'))"
    before = page.locator("#map [data-item=k4]").evaluate(radius)
    page.locator("#map [data-item=k4] .disc").dispatch_event("click")
    settle(page)
    assert items(page)[0] == "k4" and items(page, "unadapted")[0] != "k4"
    assert page.locator("#map [data-item=k4]").evaluate(radius) > before
    assert page.locator("#adapted button[aria-label^='Not']").count() == 0  # a choice has no dislikes


def test_the_keyboard_suffices_and_the_focus_stays_where_it_was(visit):
    page = visit("users")
    page.focus("#search")
    page.keyboard.type("item 12")
    page.wait_for_selector("#matches [data-item=i12]")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#picks li")
    settle(page)
    assert page.evaluate("document.activeElement.id") == "search" and page.input_value("#search") == ""
    assert page.locator("#matches li").count() == 0
    page.locator("#adapted li").nth(1).get_by_role("button", name="Like").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#picks li:nth-child(2)")
    settle(page)
    assert page.evaluate("document.activeElement.closest('#adapted') !== null")
    page.focus("#picks button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#picks li:nth-child(2)", state="detached")
    settle(page)
    assert page.evaluate("document.activeElement.id") == "undo"
    page.keyboard.press("Enter")
    settle(page)
    assert page.evaluate("document.activeElement.id") == "search"


@pytest.mark.parametrize("model", ["users", "ads", "cities"])
def test_on_a_dark_phone_all_can_be_reached_by_tab(visit, model):
    page = visit(model, viewport=NARROW, scheme="dark")
    page.locator("#adapted .acts button").first.click()
    page.wait_for_selector("#picks li")
    settle(page)
    places, reached = page.watched.reached_by_tab()
    assert places and places == reached


def test_an_error_is_one_line_and_goes_away(visit, plain):
    page = visit("users")
    page.route("**/playground/lists", lambda route: route.fulfill(status=503, json={"detail": "Too many"}))
    page.locator(".starter").first.click()
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error") == "Too many"
    page.unroute("**/playground/lists")
    press(page, "Undo")
    page.wait_for_selector("#error", state="hidden")
    assert page.watched.problems and all("503" in one for one in page.watched.problems)  # the browser's own lines
    page.watched.problems.clear()
