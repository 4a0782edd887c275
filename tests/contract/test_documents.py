"""Documents name files that exist: a move that forgets them fails here."""

import re

import pytest

from tests.contract.naming import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
PATH = re.compile(r"`((?:recsys_meta|api|pipelines|tests|migrations|benchmarks|docs)/[\w./-]*)`")
# The changelog speaks of files as they were called then.
PATHS = sorted(
    {
        (str(document.relative_to(ROOT)), path)
        for document in DOCUMENTS
        if document.name != "CHANGELOG.md"
        for path in PATH.findall(document.read_text(encoding="utf-8"))
    }
)


def test_paths_are_found():
    assert len(PATHS) > 60


@pytest.mark.parametrize(("document", "path"), PATHS)
def test_a_named_path_exists(document, path):
    assert (ROOT / path).exists()
