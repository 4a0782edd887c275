"""An adapted state as bytes, for caches: what one process adapted, another serves."""

from __future__ import annotations

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from recsys_meta.types import State


def dump_state(state: State) -> bytes:
    """A state as a small binary (safetensors)."""
    # Copies, because safetensors refuses tensors that share memory.
    return save({k: v.clone(memory_format=torch.contiguous_format) for k, v in state.items()})


def load_state(content: bytes, like: State | None = None) -> State | None:
    """The state that `dump_state` wrote; None when the bytes are none, or `like` has other leaves, types or dims."""
    try:
        state = load(content)
    except (SafetensorError, ValueError, KeyError):
        return None
    return state if like is None or _form(state) == _form(like) else None


def _form(state: State) -> dict[str, tuple[torch.dtype, int]]:
    return {k: (v.dtype, v.dim()) for k, v in state.items()}
