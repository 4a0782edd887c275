"""An adapted state as bytes, for caches: what one process adapted, another serves.

    magic  leaves  { name  type  dims  [scales]  values }*          all numbers little-endian

Whole numbers are kept in as few bytes as they need. Leaves that a predictor calls *coarse* are kept in one byte a
number with a scale for each row of the last axis; `settled` rounds a fresh state the same way, so that an answer does
not depend on whether its state was cached. A scale has eight significant bits, so that rounding twice is rounding once.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from recsys_meta.types import State

MAGIC = b"RS2"
_COARSE = 255
_LEVELS = 127
_LONG = 255  # a dimension from here on takes four bytes more
_TYPES: tuple[tuple[torch.dtype, str], ...] = (
    (torch.float32, "<f4"),
    (torch.float64, "<f8"),
    (torch.bool, "?"),
    (torch.int8, "<i1"),
    (torch.int16, "<i2"),
    (torch.int32, "<i4"),
    (torch.int64, "<i8"),
    (torch.uint8, "<u1"),
)
_NARROW = ("<u1", "<u2", "<u4", "<i8")
"""How an int64 leaf may be kept: the first that holds all of its values."""
_LIMITS = (2**8 - 1, 2**16 - 1, 2**32 - 1, 2**63 - 1)


def dump_state(state: State, coarse: Collection[str] = ()) -> bytes:
    """A state as a small binary. Raises ValueError for a leaf of a type that is not kept."""
    parts = [MAGIC, struct.pack("<B", len(state))]
    for name, leaf in state.items():
        parts += _dump(name, leaf.detach(), name in coarse)
    return b"".join(parts)


def _dump(name: str, leaf: Tensor, coarse: bool) -> list[bytes]:
    if coarse:
        level, scale = _rounded(leaf.numpy())
        kept = (scale.view(np.uint32) >> 16).astype("<u2")
        return [_head(name, _COARSE, 0, tuple(leaf.shape)), kept.tobytes(), level.astype(np.int8).tobytes()]
    code = next((i for i, (dtype, _) in enumerate(_TYPES) if dtype == leaf.dtype), None)
    if code is None:
        raise ValueError(f"leaf '{name}' is of type {leaf.dtype}, which is not kept")
    values = leaf.contiguous().numpy()
    form = _TYPES[code][1]
    narrow = 0
    if leaf.dtype == torch.int64:
        least, most = (int(values.min()), int(values.max())) if values.size else (0, 0)
        narrow = next(i for i, limit in enumerate(_LIMITS) if (least >= 0 and most <= limit) or i == 3)
        form = _NARROW[narrow]
    return [_head(name, code, narrow, tuple(leaf.shape)), values.astype(form).tobytes()]


@lru_cache(maxsize=256)  # the same for every newcomer of a model with as many rows
def _head(name: str, code: int, narrow: int, shape: tuple[int, ...]) -> bytes:
    text = name.encode()
    dims = b"".join(bytes([n]) if n < _LONG else struct.pack("<BI", _LONG, n) for n in shape)
    return struct.pack("<BBBB", len(text), code, narrow, len(shape)) + text + dims


def _rounded(leaf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Levels of -127 to 127 and the scale of each row [..., 1], both float32."""
    most = np.abs(leaf).max(-1, keepdims=True, initial=0)
    # The greatest of a row stays at the last level whichever way its scale was rounded: half a level is more.
    scale = _bfloat16(most / np.float32(_LEVELS))
    level = np.rint(leaf / np.where(scale > 0, scale, np.float32(1)))
    return np.clip(level, -_LEVELS, _LEVELS) + np.float32(0), scale  # no -0.0


def _bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 rounded to the nearest that has a bfloat16, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def settled(state: State, coarse: Collection[str]) -> State:
    """The state as a cache would give it back."""
    made = dict(state)
    for name in coarse:
        if name in made:
            # In NumPy: for one newcomer its operations cost a third of torch's.
            level, scale = _rounded(made[name].numpy())
            made[name] = torch.from_numpy(level * scale)
    return made


def load_state(content: bytes, like: State | None = None) -> State | None:
    """The state that `dump_state` wrote; None when the bytes are none, or `like` has other leaves, types or dims."""
    try:
        state = _load(content)
    except (struct.error, ValueError, IndexError, UnicodeDecodeError, OverflowError, MemoryError):
        return None
    return state if like is None or _form(state) == _form(like) else None


def _load(content: bytes) -> State:
    if content[: len(MAGIC)] != MAGIC:
        raise ValueError("not a state")
    leaves, at = content[len(MAGIC)], len(MAGIC) + 1
    state: State = {}
    for _ in range(leaves):
        length, code, narrow, axes = struct.unpack_from("<BBBB", content, at)
        name = content[at + 4 : at + 4 + length].decode()
        at += 4 + length
        shape: list[int] = []
        for _ in range(axes):
            long = content[at] == _LONG
            shape.append(struct.unpack_from("<I", content, at + 1)[0] if long else content[at])
            at += 5 if long else 1
        state[name], at = _read(content, at, code, narrow, tuple(shape))
    if at != len(content):
        raise ValueError("more bytes than leaves")
    return state


def _read(content: bytes, at: int, code: int, narrow: int, shape: tuple[int, ...]) -> tuple[Tensor, int]:
    if code == _COARSE:
        scale, at = _array(content, at, "<u2", (*shape[:-1], 1))
        level, at = _array(content, at, "<i1", shape)
        return torch.from_numpy(level * (scale.astype(np.uint32) << 16).view(np.float32)), at
    dtype, form = _TYPES[code]
    values, at = _array(content, at, _NARROW[narrow] if dtype == torch.int64 else form, shape)
    return torch.from_numpy(values.copy()).to(dtype), at


def _array(content: bytes, at: int, form: str, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
    kind, count = np.dtype(form), 1
    for n in shape:
        count *= n
    if at + count * kind.itemsize > len(content):
        raise ValueError("cut short")
    return np.frombuffer(content, kind, count, at).reshape(shape), at + count * kind.itemsize


def _form(state: State) -> dict[str, tuple[torch.dtype, int]]:
    return {k: (v.dtype, v.dim()) for k, v in state.items()}
