"""A browser for tests of pages: the system's Chromium, and what a page shall do in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.fixtures.services import missing

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
AXE = Path(__file__).parent / "axe-core" / "axe.min.js"
WIDE, NARROW = {"width": 1200, "height": 900}, {"width": 390, "height": 844}

HTTP_ERROR = "the server responded with a status of 4"
"""What a browser writes on its console of every page that is an error."""

FOCUSABLE = """() => [...document.querySelectorAll(
    "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']"
)].filter((one) => !one.disabled && one.checkVisibility({visibilityProperty: true}))
  .map((one, place) => (one.dataset.place = String(place)))"""


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    """The browser, for one file of tests: while it is there, nothing else in the thread may run an event loop."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        missing("Chromium", FileNotFoundError("it is not installed"))
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        missing("Chromium", error)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield browser
        browser.close()


class WatchedPage:
    """A page whose console and requests are watched."""

    def __init__(self, chromium, url: str, scheme: str = "light", viewport: dict[str, int] | None = None) -> None:
        self.context = chromium.new_context(color_scheme=scheme, viewport=viewport or WIDE)
        self.page, self.url = self.context.new_page(), url
        self.problems: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", lambda m: None if HTTP_ERROR in m.text else self.problems.append(f"{m.type}: {m.text}"))
        self.page.on("response", self._check_status)
        self.page.on("pageerror", lambda e: self.problems.append(str(e)))
        self.page.on("request", lambda r: self.hosts.add(urlsplit(r.url).netloc))
        self.page.on("requestfailed", self._check_failure)

    def _check_status(self, response) -> None:
        """A page may be an error; what it loads may not."""
        if response.status >= 400 and response.request.resource_type != "document":
            self.problems.append(f"{response.status}: {response.url}")

    def _check_failure(self, request) -> None:
        """A request may be given up because the browser goes elsewhere."""
        if request.failure != "net::ERR_ABORTED":
            self.problems.append(f"failed: {request.url} {request.failure}")

    def open(self, path: str) -> WatchedPage:
        self.page.goto(f"{self.url}/ui/{path}")
        return self

    def close(self) -> None:
        """Close it; nothing was on its console, and no request left the host."""
        own = {urlsplit(self.url).netloc}
        problems, hosts = list(self.problems), set(self.hosts)  # what is under way is given up by the next line
        self.context.close()
        assert not problems, problems
        assert hosts <= own, hosts

    def drawn(self) -> list[int]:
        """The number of points of each chart that has ink of its own on its canvas."""
        self.page.wait_for_function(
            "() => [...document.querySelectorAll('[data-chart]')].every((one) => one.dataset.drawn)"
        )
        return self.page.evaluate(
            """() => [...document.querySelectorAll('[data-chart]')].map((one) => {
                const canvas = one.querySelector("canvas");
                const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
                const colors = new Set();
                for (let i = 0; i < pixels.length; i += 4)
                    if (pixels[i + 3] === 255) colors.add(pixels[i] << 16 | pixels[i + 1] << 8 | pixels[i + 2]);
                return colors.size > 2 ? Number(one.dataset.drawn) : 0;
            })"""
        )

    def complaints(self) -> list[str]:
        """What axe-core finds, however light it takes it."""
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        report = self.page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
        return [f"{one['id']} ({one['impact']}): {one['nodes'][0]['html']}" for one in report["violations"]]

    def background(self) -> str:
        """The colour of the page."""
        return self.page.evaluate("() => getComputedStyle(document.documentElement).backgroundColor")

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window, once charts have taken its width or had time to."""
        from playwright.sync_api import TimeoutError as Timeout

        wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        with suppress(Timeout):
            self.page.wait_for_function(f"() => {wider} <= 0", timeout=10_000)
        return self.page.evaluate(f"() => {wider}")

    def reached_by_tab(self) -> tuple[set[str], set[str]]:
        """What can be used on the page, and what of it the tab key reaches with a mark that can be seen."""
        places = set(self.page.evaluate(FOCUSABLE))
        reached = set()
        for _ in range(len(places) + 5):
            self.page.keyboard.press("Tab")
            place = self.page.evaluate(
                """() => {
                    const one = document.activeElement, style = getComputedStyle(one);
                    const isMarked = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
                    return isMarked ? one.dataset.place : null;
                }"""
            )
            reached |= {place} if place is not None else set()
        return places, reached
