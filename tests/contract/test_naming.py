"""Names, docstrings and packages stay as an engineer of the field would look for them."""

import pytest

from tests.contract import naming

BOUNDS = {
    "entries of the package root": 12,
    "one-word class names": 0.25,
    "classes that are participles": 0.02,
    "local variables that are participles": 0.02,
    "public names defined in two modules or more": 0.03,
    "docstrings that open with no verb or noun": 0.0,
    "median files of a package": 12,
}


def test_something_is_counted():
    counts = naming.count()
    assert len(counts.classes) > 300 and len(counts.variables) > 3000 and len(counts.docstrings) > 1500


@pytest.mark.parametrize("name", BOUNDS)
def test_share(name):
    assert naming.shares()[name] <= BOUNDS[name], "python -m tests.contract.naming --list"


def test_benchmarks_are_named_alike():
    counts = naming.count(("benchmarks",))
    assert counts.classes and len(counts.docstrings) > 40
    assert counts.one_word_classes == [] and counts.vague_docstrings == []


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("told", True), ("_made", True), ("Served", True), ("checked", True), ("seed", False), ("embed", False),
     ("checked_rows", False), ("run", False), ("LoadedModel", False)],
)  # fmt: skip
def test_participles_are_recognised(name, is_one):
    assert naming.participle(name) == is_one


def test_no_retired_word_comes_back():
    assert naming.retired_words() == []
