"""`adapt` on tables that do not fit into memory: killed, in wrong form, in constant memory."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipelines.batch import entity_partitioning as spreading
from pipelines.batch import event_files as told
from tests.pipelines.test_context_events import bundles  # noqa: F401


@pytest.fixture(scope="module")
def bundle(command, model) -> Path:
    """The folder of a published model."""
    return next((command.home / "models" / "shop").glob("*/bundle.json")).parent


def table(items: list[str], entities: int, each: int, seed: int = 0) -> pd.DataFrame:
    """Events in no order."""
    rng = np.random.default_rng(seed)
    entity = rng.permutation(np.repeat(np.arange(entities), each))
    return pd.DataFrame(
        {
            "entity": [f"who {n}" for n in entity],
            "item": np.array(items)[rng.integers(0, len(items), len(entity))],
            "time": rng.integers(0, 2**31, len(entity)),
        }
    )


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(spreading, "PARTITION_ROWS", 60)
    monkeypatch.setattr(spreading, "MAX_OPEN_FILES", 4)
    monkeypatch.setattr(told, "BLOCK_ROWS", 250)


def write(frame: pd.DataFrame, path: Path) -> None:
    """A table in the form that its file's name says."""
    match path.suffix:
        case ".csv":
            frame.to_csv(path, index=False)
        case ".parquet":
            frame.to_parquet(path)
        case _:
            path.write_text("\n".join(map(json.dumps, frame.to_dict("records"))))


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.slow
def test_killed_at_any_instant_it_goes_on_and_writes_the_same_file(command, bundle, items, tmp_path):
    events, out = tmp_path / "events.parquet", tmp_path / "out.parquet"
    table(items, 500, 4).to_parquet(events)
    done = subprocess.run(
        [sys.executable, "-m", "tests.pipelines.adapt_child", "14", bundle, "--events", events, "--out", out],
        env=command.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *killed, last = map(json.loads, done.stdout.splitlines())
    assert last["ended"] == 0
    assert out.read_bytes() == Path(f"{out}.first").read_bytes()
    assert left(tmp_path) == ["events.parquet", "out.parquet", "out.parquet.first"]
    assert sorted(r["entity"] for r in pq.read_table(out).to_pylist()) == sorted(f"who {n}" for n in range(500))
    # It did go on: what one had made the next still had, unless one came to the end.
    assert any(k["ended"] == -9 and k["made"] for k in killed)
    for one, other in pairwise(killed):
        assert other["made"] >= one["made"] or one["out"] or other["out"]


def test_it_goes_on_only_with_the_same_job(command, model, items, tmp_path, small_parts, monkeypatch):
    events, out = tmp_path / "events.csv", tmp_path / "out.parquet"
    frame = table(items, 60, 4).assign(time=10**11)
    frame.to_csv(events, index=False)
    real, parts = pq.ParquetWriter.write_table, []

    def until_the_light_goes_out(self, *args):
        parts.append(1)
        if len(parts) == 4:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", until_the_light_goes_out)
    asked = ("adapt", model, "--events", events, "--out", out)
    assert "run it again" in command(*asked, code=130)
    assert len(left(tmp_path / ".adapt-out.parquet" / "made")) == 3 and not out.exists()
    resumed = command.json(*asked)
    assert resumed["resumed"] is True
    assert left(tmp_path) == ["events.csv", "out.parquet"]
    (warning,) = resumed["warnings"]
    assert "1973" in warning, "what was odd about the events is said again, though they were not read again"
    whole = out.read_bytes()
    del parts[:]
    command(*asked, code=130)
    assert out.read_bytes() == whole, "the old output is there until there is a new one"
    assert command.json(*asked, "-n", "3")["resumed"] is False
    assert {len(r["items"]) for r in pq.read_table(out).to_pylist()} == {3}
    del parts[:]
    command(*asked, code=130)
    frame.iloc[:-7].to_csv(events, index=False)
    assert command.json(*asked)["resumed"] is False
    assert sum(r["support_size"] for r in pq.read_table(out).to_pylist()) <= len(frame) - 7


def test_a_damaged_description_begins_afresh(command, model, items, tmp_path):
    events, out = tmp_path / "events.csv", tmp_path / "out.parquet"
    table(items, 5, 3).to_csv(events, index=False)
    work = tmp_path / ".adapt-out.parquet"
    (work / "made").mkdir(parents=True)
    (work / "job.json").write_text("{}")
    (work / "made" / "00.parquet").write_text("nonsense")
    made = command.json("adapt", model, "--events", events, "--out", out)
    assert made["resumed"] is False and made["entities"] == 5
    assert left(tmp_path) == ["events.csv", "out.parquet"]
    about = json.loads(pq.read_schema(out).metadata[b"recsys-meta"])
    assert about["version"] == made["version"] and about["n"] == 10 and len(about["events"]) == 64


def test_one_process_at_a_time(command, model, items, tmp_path):
    events, out = tmp_path / "events.csv", tmp_path / "out.parquet"
    table(items, 5, 3).to_csv(events, index=False)
    (tmp_path / ".adapt-out.parquet").mkdir()
    handle = os.open(tmp_path / ".adapt-out.parquet", os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert "another process" in command("adapt", model, "--events", events, "--out", out, code=1)
    finally:
        os.close(handle)
    assert command.json("adapt", model, "--events", events, "--out", out)["entities"] == 5


def test_a_full_disk_is_told_and_nothing_is_lost(command, model, items, tmp_path, small_parts, monkeypatch):
    events, out = tmp_path / "events.csv", tmp_path / "out.parquet"
    table(items, 60, 4).to_csv(events, index=False)
    with monkeypatch.context() as patch:
        real = pq.ParquetWriter.write_table

        def full(self, *args):
            if (tmp_path / ".adapt-out.parquet" / "made" / "00.parquet").exists():
                raise OSError(28, "No space left on device")
            return real(self, *args)

        patch.setattr(pq.ParquetWriter, "write_table", full)
        assert "No space left" in command("adapt", model, "--events", events, "--out", out, code=1)
    assert not out.exists()
    assert command.json("adapt", model, "--events", events, "--out", out)["resumed"] is True


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("entity", None, "the entity is empty"),
        ("item", None, "the item is empty"),
        ("label", 0.5, "0.5 is not a click"),
        ("label", None, "a label is needed"),
        ("position", "inf", "not a finite number"),
        ("position", "top", "not a number"),
    ],
)
def test_a_wrong_row_is_named_before_any_work(command, bundles, tmp_path, suffix, field, value, says):  # noqa: F811
    rows = [{"entity": f"ad {n % 7}", "item": "p1", "label": float(n % 2), "position": 1.0} for n in range(40)]
    if isinstance(value, str):
        rows = [{**row, field: str(row[field])} for row in rows]
    rows[17][field] = value
    path, out = tmp_path / f"events.{suffix}", tmp_path / "out.parquet"
    write(pd.DataFrame(rows), path)
    message = command("adapt", bundles["ads"], "--events", path, "--out", out, code=1)
    assert says in message and str(path) in message
    assert f"line {19 if suffix == 'csv' else 18}" in message, "the header of CSV is line 1"
    assert left(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_a_table_without_rows_gives_one_without_rows(command, model, tmp_path, suffix):
    path, out = tmp_path / f"none.{suffix}", tmp_path / "out.parquet"
    write(pd.DataFrame({"entity": ["x"], "item": ["y"], "time": [1.0]}).head(0), path)
    if suffix == "jsonl":
        assert "no such column" in command("adapt", model, "--events", path, "--out", out, code=1)
        assert left(tmp_path) == [path.name]
        return
    assert command.json("adapt", model, "--events", path, "--out", out)["entities"] == 0
    assert pq.read_table(out).num_rows == 0


@pytest.mark.parametrize("field", ["entity", "item"])
@pytest.mark.parametrize("value", [b"\xff\xfe", ["a", "b"], {"a": 1}])
def test_a_column_that_holds_no_names_is_refused(command, model, tmp_path, field, value):
    path, out = tmp_path / "events.parquet", tmp_path / "out.parquet"
    pd.DataFrame({**{"entity": ["ann"], "item": ["i"]}, field: [value]}).to_parquet(path)
    for words in (("adapt", model, "--events", path, "--out", out), ("recommend", model, "--events", path)):
        message = command(*words, code=1)
        assert "holds no names" in message and f"'{field}'" in message and str(path) in message
    assert left(tmp_path) == [path.name]


def test_objects_of_a_context_and_codes_of_values_are_read_from_parquet(command, bundles, tmp_path, small_parts):  # noqa: F811
    path, flat = tmp_path / "nested.parquet", tmp_path / "flat.csv"
    rows = [(f"ad {n % 9}", f"p{1 + n % 2}", n % 2, n % 4, "mobile" if n % 3 else "desktop") for n in range(400)]
    frame = pd.DataFrame(rows, columns=["entity", "item", "label", "position", "device"])
    frame.to_csv(flat, index=False)
    context = frame[["position", "device"]].to_dict("records")
    frame[["entity", "item", "label"]].astype({"entity": "category"}).assign(context=context).to_parquet(path)
    answers = []
    for events in (path, flat):
        out = tmp_path / f"{events.stem}-out.parquet"
        assert command.json("adapt", bundles["ads"], "--events", events, "--out", out)["entities"] == 9
        answers.append(sorted(pq.read_table(out).to_pylist(), key=lambda r: r["entity"]))
    assert answers[0] == answers[1]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_table(command, bundle, items, tmp_path):
    """Twenty times the events, in parts of the same size; held at once they would take twice as much as is allowed."""
    peaks = [_peak(command, bundle, items, tmp_path, entities) for entities in (2_000, 40_000)]
    assert peaks[1] - peaks[0] < 24 * 2**10, f"{peaks} KiB at the two sizes"


def _peak(command, bundle: Path, items: list[str], folder: Path, entities: int) -> int:
    """Peak anonymous memory in KiB."""
    events = folder / f"{entities}.parquet"
    table(items, entities, 10).to_parquet(events)
    code = f"""
import sys, threading, time
from pathlib import Path
from pipelines.batch import entity_partitioning as spreading
from pipelines.batch import event_files as told
from pipelines.cli import main
spreading.PARTITION_ROWS, told.BLOCK_ROWS = 2500, 1000
peak, on = 0, True
def watch():
    global peak
    while on:
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = max(peak, *(int(line.split()[1]) for line in lines if line.startswith("RssAnon")))
        time.sleep(0.005)
thread = threading.Thread(target=watch)
thread.start()
sys.argv = ["recsys-meta", "adapt", {str(bundle)!r}, "--events", {str(events)!r}, "--out", {str(events) + ".out"!r}]
try:
    main()
except SystemExit as left:
    assert not left.code, left
finally:
    on = False
    thread.join()
print(peak)
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    # What is freed goes back to the system at once: else the peak is also what allocators kept, by chance.
    plain = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment = {**command.environment, **plain, "ARROW_DEFAULT_MEMORY_POOL": "system"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
