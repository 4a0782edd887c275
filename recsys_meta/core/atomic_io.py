"""Directories that appear whole or not at all, and files whose damage is noticed.

Written beside, flushed to the disk, then renamed: after a crash at any instant a reader finds the old or the new
(where an old directory is replaced, once `sweep` has run).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY_PREFIX, REPLACED_PREFIX = ".tmp-", ".old-"


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """A temporary directory that becomes `target` when the block ends well and vanishes when it does not.

    An existing target is replaced. Raises OSError as the file system does.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.parent / f"{TEMPORARY_PREFIX}{target.name}-{uuid.uuid4().hex[:12]}"
    beside.mkdir()
    try:
        yield beside
        for path in sorted(beside.rglob("*")):
            _flush(path)
        _flush(beside)
        _replace_directory(beside, target)
        _flush(target.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _replace_directory(beside: Path, target: Path) -> None:
    if not target.exists():
        beside.rename(target)
        return
    # A directory cannot be renamed over a full one: move the old one aside first.
    old = target.parent / f"{REPLACED_PREFIX}{target.name}-{uuid.uuid4().hex[:12]}"
    target.rename(old)
    try:
        beside.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A place for a file that becomes `path` in one step when the block ends well, and vanishes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.parent / f"{TEMPORARY_PREFIX}{path.name}-{uuid.uuid4().hex[:12]}"
    try:
        yield beside
        _flush(beside)
        beside.replace(path)
        _flush(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def write_file(path: Path, content: bytes) -> None:
    """Replace a file in one step."""
    with atomic_file(path) as beside:
        beside.write_bytes(content)


def clean_leftovers(directory: Path) -> None:
    """Remove what a killed process left half-written; what it had moved aside for that comes back."""
    for old in directory.glob(f"{REPLACED_PREFIX}*"):
        target = directory / old.name.removeprefix(REPLACED_PREFIX).rpartition("-")[0]
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(target)
    for path in directory.glob(f"{TEMPORARY_PREFIX}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def dump_checksummed(content: Mapping[str, Any]) -> str:
    """JSON text that holds its own hash under "seal", so that any change of a byte is noticed by `unseal`."""
    plain = json.loads(json.dumps(content))
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    return json.dumps({**plain, "seal": digest}, indent=1, sort_keys=True)


def load_checksummed(text: str) -> dict[str, Any]:
    """What was sealed. Raises ValueError when the text is not, byte for byte, what `seal` wrote."""
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("not a table")  # noqa: TRY004
    content.pop("seal", None)
    if dump_checksummed(content) != text:
        raise ValueError("damaged: its hash differs")
    return content


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
