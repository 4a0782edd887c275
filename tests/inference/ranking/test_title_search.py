"""Titles are found by what stands in them, the closest first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_meta.inference.ranking import title_search
from recsys_meta.inference.ranking.title_search import TitleIndex, fold_text

TITLES = ["The Matrix", "Alien", "Le Fabuleux Destin d'Amélie Poulain", "Aliens", "Strange  Alien Days", "Inalienable"]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("alien", [1, 3, 4, 5]),
        ("ALIENS", [3]),
        ("amelie", [2]),
        ("AMÉLIE p", [2]),
        ("strange alien", [4]),
        ("matrix", [0]),
        ("", [0, 1, 2, 3, 4, 5]),
        ("  ", [0, 1, 2, 3, 4, 5]),
        ("x\ny", []),
        ("nothing", []),
    ],
)
def test_the_start_of_a_title_comes_before_that_of_a_word_and_that_before_the_rest(query, wanted):
    assert TitleIndex(TITLES).find(query, 10) == wanted
    assert TitleIndex(TITLES).find(query, 2) == wanted[:2]


@given(st.lists(st.text("ab é\nß", max_size=6), max_size=20), st.text("ab é\nß", max_size=3), st.integers(1, 4))
def test_all_titles_that_hold_the_text_are_found_once_in_however_many_blocks(titles, query, lines):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(title_search, "_LINES", lines)
        found = TitleIndex(titles).find(query, 100)
    assert sorted(found) == [i for i, title in enumerate(titles) if fold_text(query) in fold_text(title)]
