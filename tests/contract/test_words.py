"""The library between data and doors speaks of entities and items: a kind of entity is a schema, never an `if`."""

import re
from pathlib import Path

import pytest

import recsys_meta

ROOT = Path(recsys_meta.__file__).parent
# `data` and `client` know data sets and examples; `schema.py` names the kinds in a docstring, "user" is its default.
PACKAGES = (
    "core", "metrics", "episodes", "models/learners", "models/functional",
    "training", "evaluation", "inference", "store",
)  # fmt: skip
FILES = sorted(
    path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if path.name not in ("__init__.py", "schema.py", "errors.py", "migrate.py")
)
KINDS = re.compile(r"\b(users?|ads?|cit(y|ies)|hotels?|movies?|films?)\b", re.IGNORECASE)


def test_the_files_are_found():
    assert len(FILES) > 100


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_names_no_kind_of_entity(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    named = [f"{n}: {line.strip()}" for n, line in enumerate(lines, 1) if KINDS.search(line)]
    assert not [line for line in named if "CHAML" not in line], named
