"""Adapted states as bytes, for caches: what one process adapted, another serves.

    magic  leaves  { name  type  dims  [scales]  values }*          all numbers little-endian

Whole numbers take as few bytes as they need. Leaves that a predictor calls *coarse* are quantized to one byte a number
with a scale for each row of the last axis; `quantize` rounds a fresh state the same way, so that an answer does not
depend on whether its state was cached. A scale has eight significant bits, so that rounding twice is rounding once.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.types import State

MAGIC = b"RS2"
_QUANTIZED = 255  # the type of a quantized leaf
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
_CODES = {dtype: i for i, (dtype, _) in enumerate(_TYPES)}
_NARROW = tuple(np.dtype(form) for form in ("<u1", "<u2", "<u4", "<i8"))
"""Types for an int64 leaf: the first that holds all of its values is taken."""
_LIMITS = (2**8 - 1, 2**16 - 1, 2**32 - 1, 2**63 - 1)


def dump_state(state: State, coarse: Collection[str] = ()) -> bytes:
    """Serialize a state. Raises ValueError for a leaf of a type that has no code."""
    return quantize({name: leaf.detach()[None] for name, leaf in state.items()}, coarse, one=False)[1][0]


def quantize(state: State, coarse: Collection[str] = (), *, one: bool = True) -> tuple[State, list[bytes]]:
    """Round the states of T entities as a cache would return them, and serialize each: as a state with T = 1, or,
    unless `one`, without a T. Raises ValueError for a leaf of a type that has no code."""
    rounded_state = dict(state)
    tasks = next(iter(state.values())).shape[0] if state else 0
    columns: list[Sequence[bytes]] = [[MAGIC + bytes([len(state)])] * tasks]
    for name, leaf in state.items():
        # In NumPy: for one entity its operations cost a third of torch's.
        values = leaf.numpy()
        shape = (1, *values.shape[1:]) if one else values.shape[1:]
        if name in coarse:
            level, scale = _levels(values)
            rounded_state[name] = torch.from_numpy(level * scale)
            head = _head(name, _QUANTIZED, 0, shape)
            columns += ([head] * tasks, _row_bytes(_upper_halves(scale)), _row_bytes(level.astype(np.int8)))
        else:
            columns += _exact(name, leaf.dtype, values, shape)
    return rounded_state, [b"".join(row) for row in zip(*columns, strict=True)]


def round_coarse(state: State, coarse: Collection[str]) -> State:
    """Round the coarse leaves of T states as `quantize` does."""
    rounded = {name: _round(leaf) for name, leaf in state.items() if name in coarse}
    return {**state, **rounded}


def _round(leaf: Tensor) -> Tensor:
    level, scale = _levels(leaf.numpy())
    return torch.from_numpy(level * scale)


def _exact(
    name: str, dtype: torch.dtype, values: np.ndarray, shape: tuple[int, ...]
) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """Serialize heads and values of a leaf for each entity; whole numbers as narrow as the entity's own may be."""
    code = _CODES.get(dtype)
    if code is None:
        raise ValueError(f"leaf '{name}' is of type {dtype}, which is not kept")
    if dtype != torch.int64:
        return [_head(name, code, 0, shape)] * len(values), _row_bytes(values.astype(_TYPES[code][1]))
    # As lists: an entity has few rows, for which two reductions of NumPy take ten times as long.
    rows = values.reshape(len(values), -1).tolist()
    narrow = [_narrow(min(row, default=0), max(row, default=0)) for row in rows]
    forms = {i: _row_bytes(values.astype(_NARROW[i])) for i in set(narrow)}
    return [_head(name, code, i, shape) for i in narrow], [forms[i][t] for t, i in enumerate(narrow)]


def _row_bytes(values: np.ndarray) -> list[bytes]:
    """Serialize each row of an array: cut from the bytes of the whole, which takes a fifth of a call for each."""
    raw, count = values.tobytes(), len(values)
    size = len(raw) // count if count else 0
    return [raw[t * size : (t + 1) * size] for t in range(count)]


def _narrow(least: int, most: int) -> int:
    return bisect_left(_LIMITS, most) if least >= 0 else len(_LIMITS) - 1


def _upper_halves(scale: np.ndarray) -> np.ndarray:
    """Take the upper half of each scale's bits; the lower one is nought."""
    return (scale.view(np.uint32) >> 16).astype(_NARROW[1])


@lru_cache(maxsize=256)  # the same for every entity of a model with as many rows
def _head(name: str, code: int, narrow: int, shape: tuple[int, ...]) -> bytes:
    text = name.encode()
    dims = b"".join(bytes([n]) if n < _LONG else struct.pack("<BI", _LONG, n) for n in shape)
    return struct.pack("<BBBB", len(text), code, narrow, len(shape)) + text + dims


def _levels(leaf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantize a leaf to levels of -127 to 127 and the scale of each row [..., 1], both float32."""
    most = np.maximum.reduce(np.abs(leaf), axis=-1, keepdims=True, initial=0)
    # The greatest of a row stays at the last level whichever way its scale was rounded: half a level is more.
    scale = _bfloat16(most / np.float32(_LEVELS))
    level = np.rint(leaf / (scale + (scale == 0)))
    return np.minimum(np.maximum(level, -_LEVELS), _LEVELS) + np.float32(0), scale  # no -0.0


def _bfloat16(values: np.ndarray) -> np.ndarray:
    """Round float32 to the nearest that is a bfloat16, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def load_state(content: bytes, like: State | None = None) -> State | None:
    """Deserialize a state of `dump_state`; None for other bytes, or where `like` has other leaves, types or dims."""
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
    if code == _QUANTIZED:
        scale, at = _array(content, at, "<u2", (*shape[:-1], 1))
        level, at = _array(content, at, "<i1", shape)
        return torch.from_numpy(level * (scale.astype(np.uint32) << 16).view(np.float32)), at
    dtype, form = _TYPES[code]
    values, at = _array(content, at, _NARROW[narrow] if dtype == torch.int64 else form, shape)
    return torch.from_numpy(values.copy()).to(dtype), at


def _array(content: bytes, at: int, form: str | np.dtype[Any], shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
    kind, count = np.dtype(form), 1
    for n in shape:
        count *= n
    if at + count * kind.itemsize > len(content):
        raise ValueError("cut short")
    return np.frombuffer(content, kind, count, at).reshape(shape), at + count * kind.itemsize


def _form(state: State) -> dict[str, tuple[torch.dtype, int]]:
    return {k: (v.dtype, v.dim()) for k, v in state.items()}
