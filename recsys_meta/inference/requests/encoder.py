"""From a model's words to tensors: supports, and rows to be scored, as training and evaluation have them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from recsys_meta.core.dataset import Vocabulary
from recsys_meta.core.feature_encoding import encode_raw, unseen_features
from recsys_meta.core.schema import FeatureField, Schema
from recsys_meta.core.types import FIRST, PAD, UNKNOWN, EntityCatalog, Interactions, Support
from recsys_meta.episodes.collate import collate
from recsys_meta.episodes.event_index import HISTORY
from recsys_meta.inference.requests.entity import EncodedEntity, EntityCatalogSpec, RawFeatures


@dataclass(frozen=True)
class RequestEncoder:
    """Encodes for one model. `ids`: padded ids of its items; `table`: their features [C, ...], where it has them."""

    schema: Schema
    vocab: Vocabulary
    ids: Mapping[str, int]
    table: Mapping[str, Tensor] = field(default_factory=dict)

    def support(self, known: Sequence[EncodedEntity]) -> Support:
        """The support of T newcomers. Raises DataError for a feature the schema does not have, or a wrong value."""
        features = encode_raw(self.schema.all_entity_features, self.vocab, "entity", [k.features for k in known])
        rows = collate([list(k.items) for k in known], [list(k.labels) for k in known])
        if self.schema.context:
            words = [w for k in known for w in (k.context or ({},) * len(k.items))]
            rows = replace(rows, context=self._context(words, rows.mask))
        if self.schema.actor:
            rows = replace(
                rows, history=_histories([h for k in known for h in (k.history or ((),) * len(k.items))], rows.mask)
            )
        own = None if self.schema.home is None else self.catalogue([k.own or EntityCatalogSpec() for k in known])
        return Support(features, rows, own)

    def unknown(self, features: RawFeatures) -> list[str]:
        """Features of a newcomer, by name, of which a value is none of the data's."""
        if not features:
            return []
        return unseen_features(self.schema.all_entity_features, self.vocab, "entity", features)

    def rows(self, items: Sequence[int], words: Sequence[RawFeatures], history: Sequence[int] = ()) -> Interactions:
        """R rows of one newcomer to be scored, [1, R]; all have the same history. Labels are 0."""
        shape = 1, len(items)
        item = torch.tensor(items, dtype=torch.int64).reshape(shape)
        mask = torch.ones(shape, dtype=torch.bool)
        past = _histories([tuple(history)] * len(items), mask) if self.schema.actor else None
        return Interactions(item, torch.zeros(shape), mask, self._context(words, mask), past)

    def catalogue(self, own: Sequence[EntityCatalogSpec]) -> EntityCatalog:
        """The catalogues of T newcomers, padded. What was not told of an item that the model has is looked up."""
        count = torch.tensor([len(o.names) for o in own])
        place = torch.arange(int(count.max()) + FIRST if len(own) else FIRST) - FIRST
        mask = (place >= 0) & (place < count[:, None])
        item = torch.full(mask.shape, PAD, dtype=torch.int64)
        item[mask] = torch.tensor([self.ids.get(n, UNKNOWN) for o in own for n in o.names], dtype=torch.int64)
        told = encode_raw(self._item_fields, self.vocab, "item", [w for o in own for w in o.features])
        features = {name: _scattered(self._completed(name, values, item[mask]), mask) for name, values in told.items()}
        return EntityCatalog(item, features, mask)

    def check(self, row: RawFeatures, item: RawFeatures) -> None:
        """Raise DataError for values of a row or of an item that cannot be read."""
        encode_raw(self.schema.context, self.vocab, "context", [row])
        encode_raw(self._item_fields, self.vocab, "item", [item])

    @property
    def _item_fields(self) -> list[FeatureField]:
        return [f for f in self.schema.item_features if f.name != self.schema.home]

    def _completed(self, name: str, told: Tensor, item: Tensor) -> Tensor:
        """Values told of items [N], and where nothing was the table's."""
        if name not in self.table:
            return told
        here = self.table[name][item]
        if told.dim() == 1:
            return torch.where(told.isnan(), here, told)
        width = max(told.shape[1], here.shape[1])
        told, here = (torch.nn.functional.pad(t, (0, width - t.shape[1])) for t in (told, here))
        return torch.where((told != PAD).any(1, keepdim=True), told, here)

    def _context(self, words: Sequence[RawFeatures], mask: Tensor) -> dict[str, Tensor]:
        """Context of rows: ids or numbers [T, R]; words [N] belong to the rows of the mask, in order."""
        found = encode_raw(self.schema.context, self.vocab, "context", words)
        return {n: _scattered(v if v.is_floating_point() else v[:, 0], mask) for n, v in found.items()}


def _scattered(values: Tensor, mask: Tensor) -> Tensor:
    """Values [N, ...] put where the mask [T, R] is true; elsewhere nothing is known (NaN, or padding)."""
    fill = math.nan if values.is_floating_point() else PAD
    made = torch.full((*mask.shape, *values.shape[1:]), fill, dtype=values.dtype)
    made[mask] = values
    return made


def _histories(history: Sequence[Sequence[int]], mask: Tensor) -> Tensor:
    """Histories of rows [T, R, H], padded."""
    padded = [[*row[:HISTORY], *[PAD] * (HISTORY - len(row))] for row in history]
    return _scattered(torch.tensor(padded, dtype=torch.int64).reshape(len(padded), HISTORY), mask)
