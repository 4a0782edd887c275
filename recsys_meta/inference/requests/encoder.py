"""From raw values to tensors: supports, rows and catalogues, as training and evaluation have them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from recsys_meta.core.dataset import Vocabulary
from recsys_meta.core.feature_tensors import encode_raw, unseen_features
from recsys_meta.core.schema import FeatureField, Schema
from recsys_meta.core.types import FIRST, PAD, UNKNOWN, EntityCatalog, Interactions, Support
from recsys_meta.episodes.collate import collate
from recsys_meta.episodes.event_index import HISTORY
from recsys_meta.inference.requests.entity import EncodedEntity, EntityCatalogSpec, RawFeatures


class LazyFeatures(Mapping[str, Tensor]):
    """Features that are encoded when the first of them is read: where an adaptation starts from a start that is held,
    hardly any predictor reads them again."""

    def __init__(self, encode: Callable[[], Mapping[str, Tensor]]) -> None:
        self._encode = encode

    @cached_property
    def _features(self) -> Mapping[str, Tensor]:
        return self._encode()

    def __getitem__(self, name: str) -> Tensor:
        return self._features[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._features)

    def __len__(self) -> int:
        return len(self._features)


@dataclass(frozen=True)
class RequestEncoder:
    """Encodes requests for one model. item_ids: padded ids of its items by name; item_features: their features [C, ...]
    by name, where every entity has a catalogue of its own."""

    schema: Schema
    vocab: Vocabulary
    item_ids: Mapping[str, int]
    item_features: Mapping[str, Tensor] = field(default_factory=dict)

    def support(self, entities: Sequence[EncodedEntity], *, lazily: bool = False) -> Support:
        """Encode the supports of T entities. Raises DataError for a feature the schema does not have, or a wrong value;
        where features are encoded `lazily`, when the first of them is read."""
        features: Mapping[str, Tensor] = LazyFeatures(lambda: self.features(entities))
        if not lazily:
            features = dict(features)
        rows = collate([list(e.items) for e in entities], [list(e.labels) for e in entities])
        if self.schema.context:
            context = [values for e in entities for values in (e.context or ({},) * len(e.items))]
            rows = replace(rows, context=self._context(context, rows.mask))
        if self.schema.actor:
            history = [items for e in entities for items in (e.history or ((),) * len(e.items))]
            rows = replace(rows, history=_histories(history, rows.mask))
        dislikes = None
        if any(e.dislikes for e in entities):
            dislikes = collate([list(e.dislikes) for e in entities], [[0.0] * len(e.dislikes) for e in entities])
        catalogs = None
        if self.schema.home is not None:
            catalogs = self.entity_catalogs([e.catalog or EntityCatalogSpec() for e in entities])
        return Support(features, rows, catalogs, dislikes)

    def features(self, entities: Sequence[EncodedEntity]) -> dict[str, Tensor]:
        """Encode the features of T entities. Raises DataError as `support`."""
        return encode_raw(self.schema.all_entity_features, self.vocab, "entity", [e.features for e in entities])

    def unknown_features(self, features: RawFeatures) -> list[str]:
        """List the names of an entity's features of which a value does not occur in the training data."""
        if not features:
            return []
        return unseen_features(self.schema.all_entity_features, self.vocab, "entity", features)

    def rows(self, items: Sequence[int], context: Sequence[RawFeatures], history: Sequence[int] = ()) -> Interactions:
        """Encode R rows of one entity to be scored, [1, R]; all have the same history. Labels are 0."""
        shape = 1, len(items)
        item = torch.tensor(items, dtype=torch.int64).reshape(shape)
        mask = torch.ones(shape, dtype=torch.bool)
        histories = _histories([tuple(history)] * len(items), mask) if self.schema.actor else None
        return Interactions(item, torch.zeros(shape), mask, self._context(context, mask), histories)

    def entity_catalogs(self, catalogs: Sequence[EntityCatalogSpec]) -> EntityCatalog:
        """Encode the catalogues of T entities, padded. A feature that was not given of an item that the model has is
        looked up."""
        count = torch.tensor([len(catalog.names) for catalog in catalogs])
        position = torch.arange(int(count.max()) + FIRST if len(catalogs) else FIRST) - FIRST
        mask = (position >= 0) & (position < count[:, None])
        item = torch.full(mask.shape, PAD, dtype=torch.int64)
        ids = [self.item_ids.get(name, UNKNOWN) for catalog in catalogs for name in catalog.names]
        item[mask] = torch.tensor(ids, dtype=torch.int64)
        raw = [features for catalog in catalogs for features in catalog.features]
        columns = encode_raw(self._item_fields, self.vocab, "item", raw)
        features = {name: _scatter(self._complete(name, values, item[mask]), mask) for name, values in columns.items()}
        return EntityCatalog(item, features, mask)

    def check_values(self, row: RawFeatures, item: RawFeatures) -> None:
        """Raise DataError for values of a row or of an item that cannot be read."""
        encode_raw(self.schema.context, self.vocab, "context", [row])
        encode_raw(self._item_fields, self.vocab, "item", [item])

    @property
    def _item_fields(self) -> list[FeatureField]:
        return [f for f in self.schema.item_features if f.name != self.schema.home]

    def _complete(self, name: str, values: Tensor, item: Tensor) -> Tensor:
        """Fill the values of items [N] that were not given with those that the model has of them."""
        if name not in self.item_features:
            return values
        fallback = self.item_features[name][item]
        if values.dim() == 1:
            return torch.where(values.isnan(), fallback, values)
        width = max(values.shape[1], fallback.shape[1])
        values, fallback = (torch.nn.functional.pad(t, (0, width - t.shape[1])) for t in (values, fallback))
        return torch.where((values != PAD).any(1, keepdim=True), values, fallback)

    def _context(self, context: Sequence[RawFeatures], mask: Tensor) -> dict[str, Tensor]:
        """Encode the context of rows, ids or numbers [T, R]; context [N] is that of the rows of the mask, in order."""
        columns = encode_raw(self.schema.context, self.vocab, "context", context)
        return {n: _scatter(v if v.is_floating_point() else v[:, 0], mask) for n, v in columns.items()}


def _scatter(values: Tensor, mask: Tensor) -> Tensor:
    """Put values [N, ...] where the mask [T, R] is true; elsewhere stands NaN, or padding."""
    fill = math.nan if values.is_floating_point() else PAD
    result = torch.full((*mask.shape, *values.shape[1:]), fill, dtype=values.dtype)
    result[mask] = values
    return result


def _histories(history: Sequence[Sequence[int]], mask: Tensor) -> Tensor:
    """Pad the histories of rows to [T, R, H]."""
    rows = [[*row[:HISTORY], *[PAD] * (HISTORY - len(row))] for row in history]
    return _scatter(torch.tensor(rows, dtype=torch.int64).reshape(len(rows), HISTORY), mask)
