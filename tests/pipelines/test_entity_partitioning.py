"""Spreading a table over files."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.batch import entity_partitioning as spreading
from pipelines.batch.event_files import LINE_COLUMN


def tables(entities: list[str], step: int) -> list[pa.Table]:
    whole = pa.table(
        {"entity": pa.array(entities, pa.string()), LINE_COLUMN: pa.array(range(len(entities)), pa.int64())}
    )
    return [whole.slice(a, step) for a in range(0, len(entities), step)]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from([f"e{n}" for n in range(30)] + ["", "ü", "a\nb"]), max_size=200), st.integers(1, 40))
def test_every_row_comes_to_one_file_with_all_of_its_entity(tmp_path_factory, entities, step):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spreading, "PARTITION_ROWS", 8)
        patch.setattr(spreading, "MAX_OPEN_FILES", 3)
        folder = tmp_path_factory.mktemp("spread")
        told: list[int] = []
        sizes = spreading.partition(tables(entities, step), len(entities), folder, told.append)
    assert sum(told) == len(entities)
    assert sorted(sizes) == sorted(p.name for p in folder.iterdir())
    frames = {name: spreading.read_partition(folder / name) for name in sizes}
    assert {name: len(f) for name, f in frames.items()} == sizes
    homes = pd.Series({line: name for name, f in frames.items() for line in f.index}, dtype=object)
    assert sorted(homes.index) == list(range(len(entities)))
    for frame in frames.values():
        assert [entities[line] for line in frame.index] == frame["entity"].tolist()
    for entity in set(entities):
        assert homes[[i for i, e in enumerate(entities) if e == entity]].nunique() == 1


def test_large_parts_are_spread_again_and_one_large_entity_ends_it(tmp_path, monkeypatch):
    monkeypatch.setattr(spreading, "PARTITION_ROWS", 10)
    monkeypatch.setattr(spreading, "MAX_OPEN_FILES", 3)
    entities = ["large"] * 200 + [f"e{n}" for n in range(300)]
    sizes = spreading.partition(tables(entities, 50), len(entities), tmp_path)
    assert any("-" in name for name in sizes), "no part was spread again"
    assert sum(sizes.values()) == 500 and sum(size > 60 for size in sizes.values()) == 1


def test_the_same_table_comes_to_the_same_files(tmp_path, monkeypatch):
    monkeypatch.setattr(spreading, "PARTITION_ROWS", 20)
    found = []
    for step in (7, 100):
        (folder := tmp_path / str(step)).mkdir()
        sizes = spreading.partition(tables([f"e{n % 41}" for n in range(100)], step), 100, folder)
        found.append({name: spreading.read_partition(folder / name).index.tolist() for name in sizes})
    assert found[0] == found[1]
