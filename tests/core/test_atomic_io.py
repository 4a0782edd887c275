import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_meta.core.atomic_io import (
    atomic_directory,
    clean_leftovers,
    dump_checksummed,
    load_checksummed,
    sha256,
    write_file,
)
from tests.fixtures.power_cut import each_cut

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=8,
)


def write(target, content):
    with atomic_directory(target) as beside:
        (beside / "a").write_text(content)
        (beside / "deep").mkdir()
        (beside / "deep" / "b").write_text(content)


def read(target):
    texts = {(target / name).read_text() for name in ("a", "deep/b")}
    assert len(texts) == 1, "half old, half new"
    return texts.pop()


def test_a_directory_appears_whole_and_replaces_the_old_one(tmp_path):
    target = tmp_path / "sub" / "x"
    write(target, "old")
    assert read(target) == "old"
    (target / "more").write_text("")
    write(target, "new")
    assert read(target) == "new" and not (target / "more").exists()
    assert [p.name for p in target.parent.iterdir()] == ["x"]


def test_an_error_inside_leaves_nothing_or_the_old(tmp_path):
    def fail(target):
        with atomic_directory(target) as beside:
            (beside / "a").write_text("half")
            raise RuntimeError("inside")

    for content in (None, "old"):
        if content:
            write(tmp_path / "x", content)
        with pytest.raises(RuntimeError, match="inside"):
            fail(tmp_path / "x")
        assert [p.name for p in tmp_path.iterdir()] == (["x"] if content else [])
    assert read(tmp_path / "x") == "old"


def test_a_failing_rename_puts_the_old_one_back(tmp_path, monkeypatch):
    write(tmp_path / "x", "old")
    real = type(tmp_path).rename

    def rename(self, target):
        if self.name.startswith(".tmp-"):
            raise OSError("disk full")
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "rename", rename)
        with pytest.raises(OSError, match="disk full"):
            write(tmp_path / "x", "new")
    assert read(tmp_path / "x") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("old", [None, "old"])
def test_a_power_cut_at_any_operation_leaves_old_or_new(tmp_path, monkeypatch, old):
    met = set()

    def attempt(n):
        write(tmp_path / str(n) / "x", "new")

    def before(n):
        if old:
            write(tmp_path / str(n) / "x", old)

    for n in each_cut(monkeypatch, attempt, before=before):
        folder = tmp_path / str(n)
        clean_leftovers(folder)
        left = read(folder / "x") if (folder / "x").exists() else None
        assert left in (old, "new")
        assert [p.name for p in folder.iterdir()] == (["x"] if left else [])
        met.add(left)
    assert met == {old, "new"} and n > 5


def test_a_power_cut_at_any_operation_leaves_the_old_file_or_the_new(tmp_path, monkeypatch):
    path, met = tmp_path / "sub" / "f", []
    write_file(path, b"old")
    for _ in each_cut(monkeypatch, lambda n: write_file(path, b"new")):
        met.append(path.read_bytes())
        clean_leftovers(path.parent)
        assert [p.name for p in path.parent.iterdir()] == ["f"]
        path.write_bytes(b"old")
    assert set(met) == {b"old", b"new"} and met[0] == b"old"


def test_who_reads_while_a_file_is_replaced_reads_the_old_one(tmp_path):
    write_file(tmp_path / "f", b"old")
    with (tmp_path / "f").open("rb") as reader:
        write_file(tmp_path / "f", b"newer")
        assert reader.read() == b"old"
    assert (tmp_path / "f").read_bytes() == b"newer"


def test_content_is_on_the_disk_before_its_name_is(tmp_path, monkeypatch):
    """Every file and folder is flushed before the rename, and the parent after it."""
    import os

    order = []
    real_sync, real_rename = os.fsync, type(tmp_path).rename

    def name_of(handle):
        return Path(f"/proc/self/fd/{handle}").readlink().name

    monkeypatch.setattr(os, "fsync", lambda h: (order.append(name_of(h)), real_sync(h))[1])
    monkeypatch.setattr(type(tmp_path), "rename", lambda s, t: (order.append("rename"), real_rename(s, t))[1])
    write(tmp_path / "x", "new")
    at = order.index("rename")
    assert {"a", "b", "deep"} <= set(order[:at]) and any(n.startswith(".tmp-") for n in order[:at])
    assert order[at + 1 :] == [tmp_path.name]


def test_sweeping_leaves_what_is_no_ones_leftover(tmp_path):
    write(tmp_path / "x", "kept")
    (tmp_path / ".hidden").write_text("")
    (tmp_path / ".tmp-file-1").write_text("")
    (tmp_path / ".tmp-dir-1").mkdir()
    clean_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".hidden", "x"]


def test_digests_are_of_content(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_what_is_sealed_comes_back(content):
    content.pop("seal", None)
    assert load_checksummed(dump_checksummed(content)) == content


def test_numbers_as_keys_and_nan_may_be_sealed():
    back = load_checksummed(dump_checksummed({"m": {0: math.nan, 10: 1, 5: 2}, "t": (1, 2)}))
    assert list(back["m"].values())[1:] != [] and set(back["m"]) == {"0", "5", "10"} and back["t"] == [1, 2]


@settings(max_examples=300)
@given(st.data())
def test_any_changed_byte_breaks_the_seal(data):
    text = dump_checksummed({"step": 12, "best": 0.25, "name": "a b", "list": [1, 2]})
    at, byte = data.draw(st.integers(0, len(text) - 1)), data.draw(st.characters(max_codepoint=127))
    changed = text[:at] + byte + text[at + 1 :]
    if changed != text:
        with pytest.raises(ValueError):
            load_checksummed(changed)
    with pytest.raises(ValueError):
        load_checksummed(text[:at])


@pytest.mark.parametrize("text", ["", "[]", "3", "null", json.dumps({"a": 1})])
def test_what_was_never_sealed_is_refused(text):
    with pytest.raises(ValueError):
        load_checksummed(text)
