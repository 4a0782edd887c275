"""Tensors of several parts in one dictionary: keys are `<prefix>/<key>`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


class PrefixedTensors(dict[str, Tensor]):
    """Dictionary of prefixed tensors that keeps the parts that were selected from it.

    For bodies, which are read again and again: searching all keys for a prefix takes as long as a small product. Must
    not be changed once a part was selected.
    """

    def __init__(self, tensors: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(tensors or {})
        self._parts: dict[str, PrefixedTensors] = {}

    def part(self, prefix: object) -> PrefixedTensors:
        """Return the tensors of a prefix; their keys are without it."""
        name = str(prefix)
        part = self._parts.get(name)
        if part is None:
            part = self._parts[name] = PrefixedTensors(_strip_prefix(self, name))
        return part


def add_prefix(prefix: object, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put a prefix and a slash before every key."""
    return {f"{prefix}/{key}": value for key, value in tensors.items()}


def select_prefix(tensors: Mapping[str, Tensor], prefix: object) -> dict[str, Tensor]:
    """Select the tensors of a prefix; their keys are without it. The result must not be changed."""
    if isinstance(tensors, PrefixedTensors):
        return tensors.part(prefix)
    return _strip_prefix(tensors, str(prefix))


def _strip_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}/"
    return {key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)}
