"""The prepared directory: what is written is what was read, whole or not at all, and damage is noticed."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_meta.core.atomic_io import dump_checksummed
from recsys_meta.core.dataset import NO_TIME
from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import FeatureField, Schema
from recsys_meta.data import open_dataset, prepare, prepare_custom
from recsys_meta.data.readers.raw_tables import RawFeatureTable, RawTables, read_frame
from tests.data.source_files import GOOD, HEAD, SCHEMA, bag, cells, prepared, rows, write
from tests.fixtures.power_cut import each_cut

ID = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff"), min_size=1, max_size=6
).filter(lambda s: s == s.strip() and s)
ROW = st.tuples(ID, ID, st.floats(1, 5, width=32), st.none() | st.integers(0, 2**33))
TABLE = st.lists(ROW, min_size=1, max_size=40, unique_by=lambda r: (r[0], r[1], r[3]))
SLOW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def csv_of(table) -> str:
    def quoted(text):
        return '"' + text.replace('"', '""') + '"' if set(text) & set('",') else text

    return HEAD + "".join(f"{quoted(u)},{quoted(i)},{x!r},{'' if t is None else t}\n" for u, i, x, t in table)


@SLOW
@given(table=TABLE, block=st.integers(1, 200), size=st.integers(1, 10), order=st.randoms())
def test_any_table_comes_back_whatever_the_chunks(tmp_path_factory, table, block, size, order):
    folder = tmp_path_factory.mktemp("t")
    from recsys_meta.data.sources.toml_schema import read_custom

    schema = SCHEMA + "exact_time = false\n"
    data = prepared(folder, csv_of(table), schema=schema, block=block)
    assert bag(data) == Counter((u, i, float(np.float32(x)), t) for u, i, x, t in table)
    time = np.asarray(data.events.time)
    for a, b in zip(data.events.indptr[:-1], data.events.indptr[1:], strict=True):
        assert b > a
        assert (np.diff(time[a:b].astype(object)) >= 0).all()
    order.shuffle(table)
    again, _ = read_custom(write(folder / "again", csv_of(table), schema))
    other = prepare(again, folder / "other", bucket=size)
    assert other.digest == data.digest
    assert bag(other) == bag(data)


def tables(rows_, **more) -> RawTables:
    frame = pd.DataFrame(rows_, columns=["user", "item", "rating", "time"])
    schema = Schema(name="t", label="rating", time="time", exact_time=False)
    return RawTables(schema, read_frame("memory", frame), origin=("memory",), **more)


@pytest.mark.parametrize("bucket", [1, 7, 100, 10_000])
@pytest.mark.parametrize("block", [32, 3200, 10**6])
def test_chunks_and_buckets_do_not_matter(tmp_path, bucket, block):
    rng = np.random.default_rng(0)
    n = 1000
    table = pd.DataFrame(
        {"user": rng.zipf(1.5, n) % 50, "item": np.arange(n), "rating": rng.random(n), "time": rng.integers(0, 20, n)}
    ).astype({"user": str, "item": str})
    whole = prepare(tables(table), tmp_path / "whole")
    data = prepare(tables(table), tmp_path / "parts", block=block, bucket=bucket)
    assert data.digest == whole.digest
    assert rows(data) == rows(whole)
    by_hand = table.sort_values(["time"], kind="stable")
    for user, part in by_hand.groupby("user"):
        assert [r[1] for r in rows(data) if r[0] == user] == list(part["item"]), "ties stay in file order"


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace("u2,i1,1", "u2,i1,2"),
        lambda t: t.replace("300", "301"),
        lambda t: t.replace("u2", "u3"),
        lambda t: t + "u2,i3,1,400\n",
    ],
)
def test_the_digest_tells_contents_apart(tmp_path, change):
    assert prepared(tmp_path / "a", GOOD).digest != prepared(tmp_path / "b", change(GOOD)).digest


def test_the_digest_covers_features_and_schema(tmp_path):
    schema = SCHEMA + '\n[[item_features]]\nname = "x"\nkind = "numeric"\n'
    one = prepared(tmp_path / "a", GOOD, schema=schema, items="item,x\ni1,1\ni2,2\n").digest
    assert prepared(tmp_path / "b", GOOD, schema=schema, items="item,x\ni2,2\ni1,1\n").digest == one
    assert prepared(tmp_path / "c", GOOD, schema=schema, items="item,x\ni1,1\ni2,3\n").digest != one
    assert (
        prepared(tmp_path / "e", GOOD, schema=SCHEMA + "positive = 4\n").digest != prepared(tmp_path / "f", GOOD).digest
    )


def test_one_entity_one_item_one_event(tmp_path):
    data = prepared(tmp_path, HEAD + "u,i,3,1\n")
    assert rows(data) == [("u", "i", 3.0, 1)]
    assert data.catalogue == 3
    assert list(data.events.indptr) == [0, 1]


def test_arrays_are_mapped_with_the_promised_types(tmp_path):
    data = prepared(tmp_path, GOOD)
    events = data.events
    assert [events.indptr.dtype, events.item.dtype, events.label.dtype, events.time.dtype] == ["i8", "i4", "f4", "i8"]
    assert all(isinstance(a, np.memmap) for a in (events.indptr, events.item, events.label, events.time))
    assert not events.item.flags.writeable


def test_values_seen_too_rarely_are_unknown(tmp_path):
    schema = SCHEMA + '\n[[entity_features]]\nname = "job"\nmin_count = 2\n'
    text = HEAD + "a,i,3,1\nb,i,3,1\nc,i,3,1\n"
    data = prepared(tmp_path, text, schema=schema, entities="user,job\na,x\nb,x\nc,y\n")
    assert cells(data, "entity", "job") == [["x"], ["x"], ["?"]]


def test_preparing_again_replaces_and_leaves_nothing_behind(tmp_path):
    prepared(tmp_path, GOOD + ",bad,1,1\n", on_error="skip")
    data = prepared(tmp_path, HEAD + "u,i,3,1\n")
    assert len(data.events) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"raw", "out"}
    assert not (tmp_path / "out" / "rejects.csv").exists()
    assert not (tmp_path / "out" / "scratch").exists()


def test_a_failure_leaves_the_old_data_set(tmp_path):
    before = prepared(tmp_path, GOOD).digest
    with pytest.raises(DataError):
        prepared(tmp_path, GOOD + ",bad,1,1\n")
    assert open_dataset(tmp_path / "out", verify=True).digest == before
    assert {p.name for p in tmp_path.iterdir()} == {"raw", "out"}


def test_a_byte_changed_in_the_description_is_noticed(tmp_path):
    prepared(tmp_path, GOOD)
    path = tmp_path / "out" / "dataset.json"
    path.write_text(path.read_text().replace('"ranking"', '"rating"'))
    with pytest.raises(DataError, match="damaged"):
        open_dataset(tmp_path / "out")


def test_a_power_cut_at_any_moment_leaves_all_or_nothing(tmp_path, monkeypatch):
    schema = write(tmp_path / "raw", GOOD)
    whole = 0
    for n in each_cut(monkeypatch, lambda n: prepare_custom(schema, tmp_path / str(n))):
        if (tmp_path / str(n)).exists():
            assert len(rows(open_dataset(tmp_path / str(n), verify=True))) == 3
            whole += 1
    assert n > 10
    assert whole >= 1


def test_what_a_killed_preparation_left_is_removed_a_day_later(tmp_path):
    left = tmp_path / ".tmp-out-0123456789ab"
    other = tmp_path / ".tmp-other-0123456789ab"
    for folder in (left, other):
        folder.mkdir()
    prepared(tmp_path, GOOD)
    assert left.exists(), "it may be another process at work"
    for folder in (left, other):
        os.utime(folder, (0, 0))
    prepared(tmp_path, GOOD)
    assert not left.exists()
    assert other.exists(), "that is not ours"


def test_a_reader_of_the_old_data_is_not_disturbed(tmp_path):
    old = prepared(tmp_path, GOOD)
    prepared(tmp_path, HEAD + "u,i,3,1\n")
    assert len(rows(old)) == 3


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match="not a prepared data set"):
        prepared(tmp_path, GOOD)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "precious"


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        prepare_custom(write(tmp_path / "raw", GOOD), tmp_path / "file" / "out")


NAMES = ("events.indptr.npy", "events.item.npy", "events.label.npy", "events.time.npy", "vocab.parquet")


@pytest.mark.parametrize("name", NAMES)
def test_damage_is_noticed(tmp_path, name):
    prepared(tmp_path, GOOD)
    path = tmp_path / "out" / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match="bytes where") as caught:
        open_dataset(tmp_path / "out")
    assert name in str(caught.value)
    assert "again" in str(caught.value)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match="not what was written"):
        open_dataset(tmp_path / "out", verify=True)
    path.unlink()
    with pytest.raises(DataError, match="missing"):
        open_dataset(tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ("{}", "cannot be read"),
        (dump_checksummed({}), "does not describe"),
    ],
)
def test_a_damaged_description(tmp_path, text, says):
    prepared(tmp_path, GOOD)
    (tmp_path / "out" / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=says):
        open_dataset(tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(format=99), "format 99"),
        (lambda d: d["schema"].update(colour=1), "colour"),
        (lambda d: d["spaces"].remove("entity"), "do not fit"),
        (lambda d: d["files"].pop("events.time.npy") and d["schema"].pop("time"), None),
    ],
)
def test_a_description_of_another_kind(tmp_path, change, says):
    prepared(tmp_path, GOOD)
    path = tmp_path / "out" / "dataset.json"
    described = json.loads(path.read_text())
    change(described)
    described.pop("seal")
    path.write_text(dump_checksummed(described))
    if says is None:
        assert open_dataset(tmp_path / "out").events.time is None
        return
    with pytest.raises(DataError, match=says):
        open_dataset(tmp_path / "out")


def test_an_array_of_objects_is_never_unpickled(tmp_path):
    prepared(tmp_path, GOOD)
    path = tmp_path / "out" / "events.label.npy"
    np.save(path, np.array([print, print], dtype=object), allow_pickle=True)
    described = json.loads((tmp_path / "out" / "dataset.json").read_text())
    described["files"][path.name]["bytes"] = path.stat().st_size
    described.pop("seal")
    (tmp_path / "out" / "dataset.json").write_text(dump_checksummed(described))
    with pytest.raises(DataError, match="damaged"):
        open_dataset(tmp_path / "out")


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="no prepared data set is here"):
        open_dataset(tmp_path / "nowhere")


def test_items_without_events_are_left_out_and_counted(tmp_path):
    frame = pd.DataFrame({"item": ["a", "b", "c"], "colour": ["red", "blue", "red"]})
    fields = (FeatureField(name="colour"),)
    schema = Schema(name="t", label="rating", time="time", item_features=fields)
    events = pd.DataFrame({"user": ["u"], "item": ["b"], "rating": [1.0], "time": [1]})
    raw = RawTables(schema, read_frame("e", events), items=RawFeatureTable("item", read_frame("i", frame)))
    data = prepare(raw, tmp_path / "out")
    assert data.catalogue == 3
    assert cells(data, "item", "colour") == [[], [], ["blue"]]
    assert data.about["item_rows_unused"] == 2


@pytest.mark.parametrize(("unit", "says"), [(None, "before 1990"), ("s", None)])
def test_a_clock_of_steps_is_nothing_unusual_where_the_schema_names_its_unit(tmp_path, unit, says):
    schema = Schema(name="t", label="rating", time="time", time_format=unit)
    frame = pd.DataFrame({"user": ["u"] * 3, "item": ["a", "b", "c"], "rating": 1.0, "time": [1, 2, 3]})
    warnings = prepare(RawTables(schema, read_frame("e", frame)), tmp_path / "out").about["warnings"]
    assert [says in warning for warning in warnings] == ([] if says is None else [True])


def test_the_times_of_one_file_are_dates_in_every_block_or_in_none(tmp_path):
    schema = Schema(name="t", time="time")
    times = [20201122, 20201123, 5, 6, 7, 20201124]
    frame = pd.DataFrame({"user": "u", "item": list("abcdef"), "time": times})
    data = prepare(RawTables(schema, read_frame("e", frame)), tmp_path / "out", block=64)
    assert sorted(data.events.time.tolist()) == [5, 6, 7, 1606003200, 1606089600, 1606176000]


def test_published_counts_that_differ_are_a_warning(tmp_path):
    data = prepare(tables([("u", "i", 1.0, 1)], expected={"events": 2, "items": 1}), tmp_path / "out")
    assert data.about["warnings"][0] == "1 events where 2 were published: a different edition, or not the whole of it"
    assert not any("items" in warning for warning in data.about["warnings"])


def test_progress_is_told_to_the_end(tmp_path):
    seen = {}
    prepare(tables([("u", str(i), 1.0, 1) for i in range(99)]), tmp_path / "out", progress=seen.__setitem__, block=320)
    assert seen["reading"] == 1.0
    assert seen["sorting"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("duplicates", ["refuse", "keep"])
def test_memory_does_not_grow_with_the_rows(tmp_path, duplicates):
    """Ten times the rows, read in the same blocks and buckets, must not need much more memory."""
    pytest.importorskip("resource")
    peaks = [_peak(tmp_path / str(n), n, duplicates) for n in (200_000, 2_000_000)]
    assert peaks[1] - peaks[0] < 32 * 2**10, f"{peaks} KiB at the two sizes"


def _peak(folder: Path, n: int, duplicates: str) -> int:
    """Peak anonymous memory in KiB of a process that prepares n rows (mapped files are the kernel's to drop)."""
    folder.mkdir()
    code = f"""
import threading, time, numpy as np, pandas as pd
from pathlib import Path
from recsys_meta.data import prepare
from recsys_meta.data.readers.raw_tables import RawTables, RowChunk
from recsys_meta.core.schema import Schema
def read(block):
    step = 50_000
    for a in range(0, {n}, step):
        i = np.arange(a, a + step)
        frame = pd.DataFrame(dict(user=(i % 5003).astype(str), item=(i % 997).astype(str), rating=1.0, time=i))
        yield RowChunk("m", frame, i)
peak, on = 0, True
def anonymous():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1])
def watch():
    global peak
    while on:
        peak = max(peak, anonymous())
        time.sleep(0.005)
thread = threading.Thread(target=watch)
thread.start()
schema = Schema(name="m", label="rating", time="time")
data = prepare(RawTables(schema, read, duplicates={duplicates!r}), Path({str(folder / "out")!r}), bucket=100_000)
on = False
thread.join()
assert len(data.events) == {n}
print(peak)
"""
    import subprocess
    import sys

    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_unknown_times_are_marked_and_last(tmp_path):
    data = prepare(tables([("u", "a", 1.0, np.nan), ("u", "b", 1.0, 5.0)]), tmp_path / "out")
    assert list(data.events.time) == [5, NO_TIME]


def test_the_digest_of_a_table_stays_what_it_was(tmp_path):
    """Models name the digest of their data, so it may not change with what the schema has learnt to say since."""
    known = "780db517e0a7f37f66ad35645eca08eedc8f6f1564c7ed2ff47c45b0b9ffac2c"
    assert prepared(tmp_path, GOOD).digest == known
