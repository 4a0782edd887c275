"""Tensors of several parts in one dictionary: keys are `<prefix>/<key>`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def add_prefix(prefix: object, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put a prefix and a slash before every key."""
    return {f"{prefix}/{key}": value for key, value in tensors.items()}


def select_prefix(tensors: Mapping[str, Tensor], prefix: object) -> dict[str, Tensor]:
    """Select the tensors of a prefix; their keys are without it."""
    start = f"{prefix}/"
    return {key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)}
