"""The middle of the house speaks of entities and items: a kind of newcomer is a schema, never an `if`."""

import re
from pathlib import Path

import pytest

import recsys_meta

HOUSE = Path(recsys_meta.__file__).parent
# `schema.py` names the kinds in a docstring and "user" as the default column; the doors and `data` know data sets.
ROOMS = ("store", "learners", "curricula")
FILES = [
    p
    for p in sorted([*HOUSE.glob("*.py"), *(f for room in ROOMS for f in (HOUSE / room).glob("*.py"))])
    if p.name not in ("__init__.py", "schema.py", "errors.py", "migrate.py", "client.py")
]
KINDS = re.compile(r"\b(users?|ads?|cit(y|ies)|hotels?|movies?|films?)\b", re.IGNORECASE)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(HOUSE)))
def test_the_middle_of_the_house_names_no_kind(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    named = [f"{n}: {line.strip()}" for n, line in enumerate(lines, 1) if KINDS.search(line)]
    assert not [line for line in named if "CHAML" not in line], named
