import json
import logging
import random

import pytest
import torch

from recsys_meta.core.atomic_io import dump_checksummed
from recsys_meta.core.errors import CheckpointError
from recsys_meta.training.checkpoint import Checkpoint, last_checkpoint, read_checkpoint, save_checkpoint
from tests.fixtures.power_cut import each_cut
from tests.fixtures.small_datasets import same


def made(step, n=4):
    g = torch.Generator().manual_seed(step)
    tensors = {
        "a": torch.randn(n, generator=g),
        "b/c": torch.arange(n) + step,
        "wide": torch.randn(n, 2, generator=g).T,  # not contiguous
        "generator": g.get_state(),
        "none": torch.zeros(0),
        "step": torch.tensor(3.0, requires_grad=True),
    }
    return Checkpoint(step, tensors, {"best": 0.1 + step, "waited": step, "stopped": "", "recipe": {"a": [1.5, None]}})


def equal(a, b):
    return a.step == b.step and a.counters == b.counters and same(a.tensors, b.tensors)


def steps(run):
    return sorted(int(p.name) for p in (run / "checkpoints").iterdir())


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    path = save_checkpoint(tmp_path, made(3))
    assert equal(read_checkpoint(path), made(3)) and equal(last_checkpoint(tmp_path), made(3))


def test_without_any_there_is_none(tmp_path):
    assert last_checkpoint(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    assert last_checkpoint(tmp_path) is None


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_last_ones_are_kept(tmp_path, keep):
    for step in range(1, 9):
        save_checkpoint(tmp_path, made(step), keep)
        assert steps(tmp_path) == list(range(max(1, step - keep + 1), step + 1))
    assert last_checkpoint(tmp_path).step == 8


def test_steps_are_ordered_as_numbers(tmp_path):
    for step in (99_999_999, 100_000_000):
        save_checkpoint(tmp_path, made(step), 2)
    assert last_checkpoint(tmp_path).step == 100_000_000 and steps(tmp_path) == [99_999_999, 100_000_000]


def test_a_step_may_be_written_again(tmp_path):
    save_checkpoint(tmp_path, made(3))
    other = Checkpoint(3, {"a": torch.ones(1)}, {})
    save_checkpoint(tmp_path, other)
    assert equal(last_checkpoint(tmp_path), other) and steps(tmp_path) == [3]


def break_file(path, how):
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "longer":
        path.write_bytes(content + b"\0")
    else:
        at = random.Random(how).randrange(len(content))
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])


DAMAGE = ["missing", "empty", "truncated", "longer", *(f"flip {i}" for i in range(12))]


@pytest.mark.parametrize("name", ["state.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_one_is_noticed_and_passed_over(tmp_path, caplog, name, how):
    for step in (1, 2):
        save_checkpoint(tmp_path, made(step))
    newest = tmp_path / "checkpoints" / "00000002"
    break_file(newest / name, how)
    with pytest.raises(CheckpointError, match="00000002"):
        read_checkpoint(newest)
    with caplog.at_level(logging.WARNING):
        assert equal(last_checkpoint(tmp_path), made(1))
    assert "passing over a damaged checkpoint" in caplog.text


def test_when_none_is_whole_the_user_is_told(tmp_path):
    for step in (1, 2):
        break_file(save_checkpoint(tmp_path, made(step)) / "state.safetensors", "truncated")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints is whole"):
        last_checkpoint(tmp_path)


def test_another_format_is_named(tmp_path):
    path = save_checkpoint(tmp_path, made(1))
    about = json.loads((path / "checkpoint.json").read_text())
    del about["seal"]
    (path / "checkpoint.json").write_text(dump_checksummed({**about, "format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        read_checkpoint(path)


def test_what_a_run_writes_after_passing_over_damaged_ones_is_never_dropped_for_them(tmp_path):
    """Resumed from 20 because 30 to 50 are damaged, the run saves 21: that one must be what is kept."""
    for step in (20, 30, 40, 50):
        save_checkpoint(tmp_path, made(step), 4)
    for step in (30, 40, 50):
        break_file(tmp_path / "checkpoints" / f"{step:08d}" / "state.safetensors", "truncated")
    assert last_checkpoint(tmp_path).step == 20
    save_checkpoint(tmp_path, made(21), 3)
    assert steps(tmp_path) == [20, 21]
    assert equal(last_checkpoint(tmp_path), made(21))


def test_leftovers_and_strange_names_are_no_checkpoints(tmp_path):
    save_checkpoint(tmp_path, made(5))
    folder = tmp_path / "checkpoints"
    (folder / ".tmp-00000009-abc").mkdir()
    (folder / "7-notes").mkdir()
    (folder / "00000008").write_text("a file")
    assert last_checkpoint(tmp_path).step == 5
    assert not (folder / ".tmp-00000009-abc").exists()


@pytest.mark.parametrize("keep", [1, 3])
@pytest.mark.parametrize("again", [False, True])
def test_a_power_cut_at_any_operation_leaves_a_whole_one(tmp_path, monkeypatch, keep, again):
    """Whether the step is new or written again; also when a removal of old ones was under way."""
    old, new = made(7), Checkpoint(7 if again else 8, {"a": torch.ones(3)}, {"waited": 9})
    met = set()

    def before(n):
        for step in (5, 6, 7):
            save_checkpoint(tmp_path / str(n), made(step), 3)

    def write(n):
        save_checkpoint(tmp_path / str(n), new, keep)

    for n in each_cut(monkeypatch, write, before=before, half=True):
        found = last_checkpoint(tmp_path / str(n))
        assert equal(found, old) or equal(found, new), n
        met.add("new" if equal(found, new) else "old")
        # And the run goes on from there as if nothing had happened.
        save_checkpoint(tmp_path / str(n), made(9), keep)
        assert equal(last_checkpoint(tmp_path / str(n)), made(9))
    assert met == {"old", "new"} and n > 6


def test_a_full_disk_leaves_the_old_one(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, made(1))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("recsys_meta.training.checkpoint.save_file", full)
        with pytest.raises(CheckpointError, match="No space"):
            save_checkpoint(tmp_path, made(2))
    assert equal(last_checkpoint(tmp_path), made(1)) and steps(tmp_path) == [1]
