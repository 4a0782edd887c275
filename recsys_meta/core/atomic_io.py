"""Atomic writes of files and directories, and JSON with a checksum.

Content is written under a temporary name in the same directory, flushed to the disk and renamed. After a crash at any
instant a reader finds the old content or the new one; where a directory was being replaced, once `clean_leftovers` has
run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recsys_meta.core.json_text import dump_json_numbers

TEMPORARY_PREFIX, REPLACED_PREFIX = ".tmp-", ".old-"


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield a temporary directory that replaces `target` when the block succeeds and is removed when it fails.

    Raises OSError as the file system does.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f"{TEMPORARY_PREFIX}{target.name}-{uuid.uuid4().hex[:12]}"
    temporary.mkdir()
    try:
        yield temporary
        for path in sorted(temporary.rglob("*")):
            _flush(path)
        _flush(temporary)
        _replace_directory(temporary, target)
        _flush(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_directory(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
        return
    # A directory cannot be renamed over a full one: move the old one aside first.
    old = target.parent / f"{REPLACED_PREFIX}{target.name}-{uuid.uuid4().hex[:12]}"
    target.rename(old)
    try:
        temporary.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path whose file replaces `path` in one step when the block succeeds, and is removed when it
    fails. Raises OSError as the file system does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY_PREFIX}{path.name}-{uuid.uuid4().hex[:12]}"
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: Path, content: bytes) -> None:
    """Write a file in one step, replacing any of that name. Raises OSError as the file system does."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def clean_leftovers(directory: Path) -> None:
    """Remove the temporary files and directories of killed processes from a directory.

    A directory that had been moved aside, but not replaced yet, is restored.
    """
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
    """Return the SHA-256 of a file's content in hexadecimal."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def dump_checksummed(content: Mapping[str, Any]) -> str:
    """Return JSON text that holds its own SHA-256 under "seal", for `load_checksummed` to verify; NaN, which
    JSON does not have, becomes null."""
    return _sealed(json.loads(dump_json_numbers(content)), dump_json_numbers)


def _sealed(plain: Mapping[str, Any], dump: Callable[..., str]) -> str:
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    return dump({**plain, "seal": digest}, indent=1, sort_keys=True)


def load_checksummed(text: str) -> dict[str, Any]:
    """Return the content of a text that `dump_checksummed` wrote. Raises ValueError where any byte of it differs."""
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("not a table")  # noqa: TRY004
    content.pop("seal", None)
    # NaN and Infinity, which are no JSON, stand in files of earlier versions.
    if text not in (_sealed(content, dump_json_numbers), _sealed(content, json.dumps)):
        raise ValueError("damaged: its hash differs")
    return content


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
