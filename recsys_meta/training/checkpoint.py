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
    """A training state: tensors, and plain counters."""

    step: int
    tensors: Mapping[str, Tensor]
    counters: Mapping[str, Any]


def save_checkpoint(run: Path, checkpoint: Checkpoint, keep: int = 3) -> Path:
    """Write a checkpoint and keep the `keep` up to it; the others go only after the new one is safe.

    Those of later steps go too: a run that stands at this step has passed them over as damaged.
    """
    target = _folder(run) / f"{checkpoint.step:08d}"
    with atomic_directory(target) as beside:
        tensors = beside / "state.safetensors"
        save_file({k: v.detach().cpu().contiguous() for k, v in checkpoint.tensors.items()}, tensors)
        about = {"format": FORMAT, "step": checkpoint.step, "sha256": sha256(tensors)}
        (beside / "checkpoint.json").write_text(dump_checksummed({**about, "counters": dict(checkpoint.counters)}))
    found = _all(run)
    current = found.index(target)
    for other in found[: max(0, current + 1 - keep)] + found[current + 1 :]:
        shutil.rmtree(other, ignore_errors=True)
    return target


def last_checkpoint(run: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; damaged ones are passed over with a warning. None without any.

    Raises CheckpointError when there are checkpoints and none is whole.
    """
    if _folder(run).is_dir():
        clean_leftovers(_folder(run))
    found = _all(run)
    for path in reversed(found):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            log.warning("passing over a damaged checkpoint: %s", error)
    if found:
        raise CheckpointError(f"{_folder(run)}: none of the {len(found)} checkpoints is whole; start a new run")
    return None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint and verify it. Raises CheckpointError when it is damaged or of another format."""
    try:
        about = load_checksummed((path / "checkpoint.json").read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise CheckpointError(f"{path}: checkpoint format {about['format']}, this version reads {FORMAT}")
        if sha256(path / "state.safetensors") != about["sha256"]:
            raise CheckpointError(f"{path}: state.safetensors is damaged (its hash differs)")
        return Checkpoint(about["step"], load_file(path / "state.safetensors"), about["counters"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a whole checkpoint ({type(error).__name__})") from None


def _folder(run: Path) -> Path:
    return run / "checkpoints"


def _all(run: Path) -> list[Path]:
    """Folders of checkpoints, oldest first."""
    found = [p for p in _folder(run).glob("*") if p.name.isdecimal() and p.is_dir()]
    return sorted(found, key=lambda p: int(p.name))
