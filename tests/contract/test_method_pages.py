"""Each recipe has a page: what it learns, whose it is, when to use it, what it costs, and what it reached here."""

import re

import pytest

from pipelines.workspace import recipe_names
from tests.contract.naming import ROOT

PAGES = {
    page.name: page.read_text(encoding="utf-8")
    for page in sorted((ROOT / "docs" / "methods").glob("*.md"))
    if page.name != "README.md"
}
PARTS = ("**Learns**", "**Paper**: ", "**Use it**", "**Cost**")
EQUATION = re.compile(r"\n\n    \S.*[=<~].*\n")


def curves_of(page: str) -> set[str]:
    """Names of the methods whose curves stand on a page."""
    tables = re.findall(r"<!-- curve: .*? -->\n\n(.*?)<!-- end -->", page, re.DOTALL)
    return {row.split("|")[1].strip() for table in tables for row in table.splitlines()[2:] if row}


@pytest.mark.parametrize("name", sorted(recipe_names()))
def test_a_recipe_has_a_page_with_its_curve(name):
    pages = [text for text in PAGES.values() if re.search(rf"^Recipes? [^;:]*`{name}`", text, re.MULTILINE)]
    assert len(pages) == 1, f"one page of docs/methods says: Recipe `{name}`"
    assert name in curves_of(pages[0]), f"<!-- curve: FILE {name} -->, then python -m benchmarks.method_tables --write"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_each_part(name):
    assert not [part for part in PARTS if part not in PAGES[name]]
    assert EQUATION.search(PAGES[name])
    assert f"({name})" in (ROOT / "docs" / "methods" / "README.md").read_text(encoding="utf-8")
