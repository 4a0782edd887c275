"""The benchmark of adapting: what it compares is what a newcomer would get, and it needs no reference."""

from __future__ import annotations

import sys

import pytest

from benchmarks import adapting
from recsys_meta.inference.recommender import Recommender


@pytest.fixture(scope="module")
def bundle():
    pytest.importorskip("implicit")
    return adapting.untrained_bundle(200)


def test_every_system_has_a_ratio_to_the_reference_of_its_run(bundle):
    rows = adapting.measure("small", bundle, rounds=1, calls=2, sketch_from=0)
    timed = {row["system"]: row for row in rows if row["unit"] == "ms"}
    assert adapting.REFERENCE in timed and len(timed) == 5
    reference = timed[adapting.REFERENCE]["value"]
    assert all(row["ratio"] == pytest.approx(reference / row["value"]) for row in timed.values())
    assert {row["unit"] for row in rows} == {"ms", "bytes", "MiB"}


def test_without_the_library_there_is_no_ratio(bundle, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    rows = adapting.measure("small", bundle, rounds=1, calls=1, sketch_from=0)
    assert all(row["ratio"] is None for row in rows)
    assert "implicit is not installed" in capsys.readouterr().err


def test_newcomers_have_events_that_the_model_knows(bundle):
    recommender = Recommender(bundle)
    entities = [recommender.read_support(request) for request in adapting.newcomers(recommender)]
    assert all(len(entity.items) == adapting.EVENTS for entity in entities)
