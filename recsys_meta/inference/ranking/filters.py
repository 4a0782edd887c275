"""Filters on what items are like: which items of a catalogue a list may hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recsys_meta.core.dataset import Vocabulary
from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import FeatureField
from recsys_meta.core.types import FIRST


@dataclass(frozen=True)
class FeatureFilter:
    """What one feature must be: of values any of some, all of some, none of some; of a number at least and at most.

    An item whose number is not known is left out, one without values has none of any.
    """

    any: tuple[str, ...] | None = None
    all: tuple[str, ...] = ()
    none: tuple[str, ...] = ()
    min: float | None = None
    max: float | None = None

    @property
    def of_numbers(self) -> bool:
        return self.min is not None or self.max is not None

    @property
    def of_values(self) -> bool:
        return self.any is not None or bool(self.all) or bool(self.none)


def filter_mask(
    rules: Mapping[str, FeatureFilter],
    fields: Sequence[FeatureField],
    vocab: Vocabulary,
    features: Mapping[str, Tensor],
) -> Tensor:
    """Which items fulfil all rules, [C] bool; features: name -> ids [C, L] or numbers [C].

    Raises DataError for a feature of items that the model does not know, or a rule that is none for its kind.
    """
    known = {f.name: f for f in fields if f.name in features}
    kept: Tensor | None = None
    for name, rule in rules.items():
        if name not in known:
            remedy = f"Known: {', '.join(sorted(known)) or 'none'}"
            raise DataError("the model knows no such feature of items", field=name, remedy=remedy)
        one = _numbers(name, rule, features[name]) if known[name].kind == "numeric" else None
        one = _values(known[name], rule, vocab, features[name]) if one is None else one
        kept = one if kept is None else kept & one
    assert kept is not None
    return kept


def _numbers(name: str, rule: FeatureFilter, values: Tensor) -> Tensor:
    if rule.of_values:
        raise DataError("holds numbers", field=name, remedy="Filter it with min and max")
    kept = ~values.isnan()
    if rule.min is not None:
        kept = kept & (values >= _rounded(rule.min, values))
    if rule.max is not None:
        kept = kept & (values <= _rounded(rule.max, values))
    return kept


def _rounded(bound: float, values: Tensor) -> Tensor:
    """A bound rounded as the values were, so that a value passes the bound that it was sent as. Beyond the range of the
    values it becomes infinite and goes on letting all of them pass, or none."""
    return torch.tensor(bound, dtype=torch.float64).to(values)


def _values(field: FeatureField, rule: FeatureFilter, vocab: Vocabulary, ids: Tensor) -> Tensor:
    if rule.of_numbers:
        raise DataError("holds no numbers", field=field.name, remedy="Filter it with any, all and none")

    def has(words: Sequence[str]) -> Tensor:
        """Which items have each of the words, [W, C]; a word that the model does not know is nobody's."""
        spelt = [w.lower() if field.kind == "text" else w for w in words]
        wanted = torch.from_numpy(vocab.ids(f"item.{field.name}", spelt))
        return ((ids == wanted[:, None, None]) & (wanted[:, None, None] >= FIRST)).any(2)

    kept = torch.ones(len(ids), dtype=torch.bool)
    if rule.any is not None:
        kept &= has(rule.any).any(0)
    if rule.all:
        kept &= has(rule.all).all(0)
    if rule.none:
        kept &= ~has(rule.none).any(0)
    return kept
