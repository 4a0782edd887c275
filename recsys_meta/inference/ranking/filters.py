"""Filters by features of items: which items of a catalogue a list may hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from recsys_meta.core.cells import category_text
from recsys_meta.core.dataset import Vocabulary
from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import FeatureField
from recsys_meta.core.types import FIRST


@dataclass(frozen=True)
class FeatureFilter:
    """Conditions on one feature: of values any of some, all of some, none of some; of a number at least and at most.

    An item whose number is not known is left out, one without values has none of any.
    """

    any: tuple[str, ...] | None = None
    all: tuple[str, ...] = ()
    none: tuple[str, ...] = ()
    min: float | None = None
    max: float | None = None

    @property
    def has_bounds(self) -> bool:
        """True for conditions on a number."""
        return self.min is not None or self.max is not None

    @property
    def has_values(self) -> bool:
        """True for conditions on values."""
        return self.any is not None or bool(self.all) or bool(self.none)


def filter_mask(
    filters: Mapping[str, FeatureFilter],
    fields: Sequence[FeatureField],
    vocab: Vocabulary,
    features: Mapping[str, Tensor],
) -> Tensor:
    """Mark the items that pass all filters, of which there is at least one, [C] bool; features: name -> ids [C, L] or
    numbers [C].

    Raises DataError for a feature of items that the model does not know, or a condition that its kind does not have.
    """
    available = {f.name: f for f in fields if f.name in features}
    masks: list[Tensor] = []
    for name, condition in filters.items():
        if name not in available:
            remedy = f"Known: {', '.join(sorted(available)) or 'none'}"
            raise DataError("the model knows no such feature of items", field=name, remedy=remedy)
        field = available[name]
        if field.kind == "numeric":
            masks.append(_number_mask(name, condition, features[name]))
        else:
            masks.append(_value_mask(field, condition, vocab, features[name]))
    return torch.stack(masks).all(0)


def _spelling(value: str, known: pd.Index) -> str:
    """Return the spelling of a category; as it was given where an earlier model knows only that."""
    spelling = category_text(value.strip())
    return spelling if spelling in known else value


def unknown_values(
    filters: Mapping[str, FeatureFilter], fields: Sequence[FeatureField], vocab: Vocabulary
) -> dict[str, list[str]]:
    """Return the values of filters that the model never met, by feature: no item has them."""
    unknown: dict[str, list[str]] = {}
    for field in fields:
        condition = filters.get(field.name)
        if condition is None or field.kind == "numeric":
            continue
        values = list(dict.fromkeys((*(condition.any or ()), *condition.all, *condition.none)))
        ids = _value_ids(field, values, vocab)
        missing = [value for value, i in zip(values, ids.tolist(), strict=True) if i < FIRST]
        if missing:
            unknown[field.name] = missing
    return unknown


def _value_ids(field: FeatureField, values: Sequence[str], vocab: Vocabulary) -> Tensor:
    known = vocab.values[f"item.{field.name}"]
    spellings = [value.lower() if field.kind == "text" else _spelling(value, known) for value in values]
    return torch.from_numpy(vocab.ids(f"item.{field.name}", spellings))


def _number_mask(name: str, condition: FeatureFilter, values: Tensor) -> Tensor:
    if condition.has_values:
        raise DataError("holds numbers", field=name, remedy="Filter it with min and max")
    mask = ~values.isnan()
    if condition.min is not None:
        mask = mask & (values >= _round_bound(condition.min, values))
    if condition.max is not None:
        mask = mask & (values <= _round_bound(condition.max, values))
    return mask


def _round_bound(bound: float, values: Tensor) -> Tensor:
    """Round a bound as the values were, so that a value passes the bound that it was sent as. Beyond the range of the
    values it becomes infinite and goes on letting all of them pass, or none."""
    return torch.tensor(bound, dtype=torch.float64).to(values)


def _value_mask(field: FeatureField, condition: FeatureFilter, vocab: Vocabulary, ids: Tensor) -> Tensor:
    if condition.has_bounds:
        raise DataError("holds no numbers", field=field.name, remedy="Filter it with any, all and none")

    def has(values: Sequence[str]) -> Tensor:
        """Mark the items that have each of the values, [V, C]; a value that the model does not know is on no item."""
        value_ids = _value_ids(field, values, vocab)[:, None, None]
        return ((ids == value_ids) & (value_ids >= FIRST)).any(2)

    mask = torch.ones(len(ids), dtype=torch.bool)
    if condition.any is not None:
        mask &= has(condition.any).any(0)
    if condition.all:
        mask &= has(condition.all).all(0)
    if condition.none:
        mask &= ~has(condition.none).any(0)
    return mask
