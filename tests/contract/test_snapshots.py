"""What users rely on stays as it is; `python -m tests.contract.snapshots --write` writes a change that is meant."""

from __future__ import annotations

import difflib
import json

import pytest

from tests.contract.contract import FOLDER, SNAPSHOTS


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_the_contract_is_as_it_was(name: str) -> None:
    kept, found = (FOLDER / name).read_text(encoding="utf-8"), SNAPSHOTS[name]()
    change = difflib.unified_diff(kept.splitlines(), found.splitlines(), "kept", "found", lineterm="", n=2)
    shown = "\n".join(list(change)[:80])
    assert found == kept, f"{name} changed; if that is meant: python -m tests.contract.snapshots --write\n{shown}"


def test_the_snapshots_hold_what_they_should() -> None:
    """Else a walk that finds nothing would be equal to one that found nothing."""
    read = {name: (FOLDER / name).read_text(encoding="utf-8") for name in SNAPSHOTS}
    assert len(json.loads(read["openapi.json"])["paths"]) >= 15
    assert read["schema.sql"].count("CREATE TABLE") >= 24 and read["schema.sql"].count("CREATE VIEW") >= 3
    assert "recsys-meta models promote" in read["commands.txt"] and read["commands.txt"].count("--json") >= 15
    assert "tasks" in json.loads(read["recipe.json"])["recipe"]["properties"]["train"]["properties"]
    assert "flagship" in json.loads(read["names.json"])["learners"]
