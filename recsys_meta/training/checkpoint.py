"""Checkpoints of a run: a directory each, written whole, verified when read.

    <run>/checkpoints/00000120/state.safetensors   every tensor of the training state
                              /checkpoint.json     counters, the hash of the tensors, and its own

A process killed at any instant leaves the last complete one readable.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recsys_meta.core.atomic_io import atomic_directory, clean_leftovers, dump_checksummed, load_checksummed, sha256
from recsys_meta.core.errors import CheckpointError

FORMAT = 1
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """Training state at a step: tensors by name, and counters that JSON holds."""

    step: int
    tensors: Mapping[str, Tensor]
    counters: Mapping[str, Any]


def save_checkpoint(run: Path, checkpoint: Checkpoint, keep: int = 3) -> Path:
    """Write a checkpoint, then delete all but the last `keep` up to it; return its folder.

    Those of later steps are deleted too: a run at this step has passed over them as damaged. Raises CheckpointError
    where it cannot be written, as on a full disk: those before it stay.
    """
    target = _folder(run) / f"{checkpoint.step:08d}"
    try:
        with atomic_directory(target) as directory:
            tensors = directory / "state.safetensors"
            save_file({k: v.detach().cpu().contiguous() for k, v in checkpoint.tensors.items()}, tensors)
            header = {"format": FORMAT, "step": checkpoint.step, "sha256": sha256(tensors)}
            text = dump_checksummed({**header, "counters": dict(checkpoint.counters)})
            (directory / "checkpoint.json").write_text(text)
    except (OSError, SafetensorError) as error:
        # safetensors wraps the errors of the file system: "I/O error: No space left on device (os error 28)".
        reason = getattr(error, "strerror", None) or str(error).rpartition("I/O error: ")[2]
        raise CheckpointError(
            f"{target}: the checkpoint cannot be written: {reason}; free some space and run "
            f"`recsys-meta train --resume {run.name}`"
        ) from None
    folders = _checkpoint_folders(run)
    current = folders.index(target)
    for other in folders[: max(0, current + 1 - keep)] + folders[current + 1 :]:
        shutil.rmtree(other, ignore_errors=True)
    return target


def last_checkpoint(run: Path) -> Checkpoint | None:
    """Read the newest whole checkpoint, passing over damaged ones with a warning; None without any.

    Raises CheckpointError if there are checkpoints and none is whole.
    """
    if _folder(run).is_dir():
        clean_leftovers(_folder(run))
    folders = _checkpoint_folders(run)
    for path in reversed(folders):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            log.warning("passing over a damaged checkpoint: %s", error)
    if folders:
        raise CheckpointError(f"{_folder(run)}: none of the {len(folders)} checkpoints is whole; start a new run")
    return None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint and verify it. Raises CheckpointError if it is damaged or of another format."""
    try:
        header = load_checksummed((path / "checkpoint.json").read_text(encoding="utf-8"))
        if header["format"] != FORMAT:
            raise CheckpointError(f"{path}: checkpoint format {header['format']}, this version reads {FORMAT}")
        if sha256(path / "state.safetensors") != header["sha256"]:
            raise CheckpointError(f"{path}: state.safetensors is damaged (its hash differs)")
        return Checkpoint(header["step"], load_file(path / "state.safetensors"), header["counters"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a whole checkpoint ({type(error).__name__})") from None


def _folder(run: Path) -> Path:
    return run / "checkpoints"


def _checkpoint_folders(run: Path) -> list[Path]:
    """Folders of checkpoints, oldest first."""
    folders = [p for p in _folder(run).glob("*") if p.name.isdecimal() and p.is_dir()]
    return sorted(folders, key=lambda p: int(p.name))
