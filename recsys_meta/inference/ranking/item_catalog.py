"""The items that a model ranks: their names, padded ids, titles, features and popularity."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.types import FIRST, UNKNOWN, IntArray
from recsys_meta.inference.new_items.item_placer import join_features
from recsys_meta.inference.new_items.new_item_block import NewItemBlock
from recsys_meta.inference.ranking.title_search import TitleIndex
from recsys_meta.inference.ranking.topk import TopK
from recsys_meta.inference.requests.entity import EncodedEntity, EntityCatalogSpec
from recsys_meta.models.bundle import Bundle, popular_scores
from recsys_meta.models.functional.embeddings import catalogue_features


class ScoredItem(NamedTuple):
    """An item of a list: its raw name, its score and, where the bundle has one, its title."""

    item: str
    score: float
    title: str | None = None


class ItemCatalog:
    """The items of one model, and those that came after its training. Methods take the catalogue of an entity where it
    has one of its own, None elsewhere.

    new_events [N]: likes of each new item since it came; new_ids: ids of the new items by name; hidden_ids: ids that no
    list may hold; mark: a text that is another one for other new or hidden items, empty without any.
    """

    new_ids: Mapping[str, int]
    hidden_ids: IntArray
    mark: str

    def __init__(self, bundle: Bundle) -> None:
        # Plain lists and dictionaries: an index of pandas costs more than adapting does.
        self.names: list[str] = bundle.vocab.values["item"].tolist()
        self.ids: dict[str, int] = {name: i for i, name in enumerate(self.names, FIRST)}
        self.titles: Mapping[str, str] = bundle.titles
        self.features: dict[str, Tensor] = catalogue_features(bundle.params)
        with torch.no_grad():
            self.popularity_scores = popular_scores(bundle)
        self.new_events: Tensor = torch.zeros(0, dtype=torch.int64)
        self.new_ids, self.hidden_ids, self.mark = {}, np.zeros(0, np.int64), ""

    def with_items(
        self,
        new: NewItemBlock | None,
        features: Mapping[str, Tensor],
        titles: Mapping[str, str],
        hidden: Sequence[str],
    ) -> ItemCatalog:
        """Return the catalogue with new items and their features, with more titles, and with some items hidden."""
        other = copy(self)
        other.__dict__.pop("_searchable", None)
        if new is not None:
            other.new_ids = {name: i for i, name in enumerate(new.names, self.size())}
            other.names, other.ids = [*self.names, *new.names], {**self.ids, **other.new_ids}
            other.features = {k: join_features(v, features[k]) for k, v in self.features.items() if k in features}
            other.popularity_scores = torch.cat([self.popularity_scores, new.popularity])
            other.new_events = torch.tensor(new.events, dtype=torch.int64)
        other.titles = {**self.titles, **titles} if titles else self.titles
        other.hidden_ids = np.array(sorted(self.ids[name] for name in hidden if name in self.ids), np.int64)
        other.mark = _digest(new, other.hidden_ids, titles)
        return other

    def size(self, entity_catalog: EntityCatalogSpec | None = None) -> int:
        """Count the ids of a catalogue, C: its items and the two reserved ids."""
        return FIRST + len(self.names if entity_catalog is None else entity_catalog.names)

    def item_ids(self, names: Sequence[str], entity_catalog: EntityCatalogSpec | None = None) -> list[int]:
        """Look up the id of each raw item; UNKNOWN for an item that is not in the catalogue."""
        ids = self.ids if entity_catalog is None else entity_catalog.ids
        return [ids.get(name, UNKNOWN) for name in names]

    def known_item_ids(self, names: Sequence[str], entity_catalog: EntityCatalogSpec | None = None) -> list[int]:
        """Look up the ids of raw items, leaving out those that are not in the catalogue."""
        ids = self.ids if entity_catalog is None else entity_catalog.ids
        return [ids[name] for name in names if name in ids]

    def item_name(self, item: int, entity_catalog: EntityCatalogSpec | None = None) -> str:
        """Look up the raw item of an id."""
        return (self.names if entity_catalog is None else entity_catalog.names)[item - FIRST]

    def search(self, query: str, n: int) -> list[int]:
        """Find ids of at most n items that lists may hold, by a part of their title, or of their name where they have
        none: the most popular first. An item of exactly that name comes before all others. The first search of a large
        catalogue takes a second."""
        ids, index = self._searchable
        exact = [i for i in self.known_item_ids([query.strip()]) if i not in self.hidden_ids]
        found = [ids[position] for position in index.find(query, n)]
        return [*exact, *(i for i in found if i not in exact)][:n]

    @cached_property
    def _searchable(self) -> tuple[list[int], TitleIndex]:
        """Ids of the items that lists may hold, the most popular first, and the index of their titles."""
        order = torch.argsort(self.popularity_scores[FIRST:], descending=True, stable=True) + FIRST
        hidden = set(self.hidden_ids.tolist())
        ids = [i for i in order.tolist() if i not in hidden]
        names = [self.names[i - FIRST] for i in ids]
        return ids, TitleIndex([self.titles.get(name, name) for name in names])

    def to_items(self, top_k: TopK, entity_catalog: EntityCatalogSpec | None = None) -> list[ScoredItem]:
        """Convert scores and ids to items with names and titles."""
        names, titles = self.names if entity_catalog is None else entity_catalog.names, self.titles
        return [ScoredItem(name := names[i - FIRST], score, titles.get(name)) for score, i in top_k]

    def fallback_scores(self, entity: EncodedEntity) -> Tensor:
        """Return scores [C] by popularity, for a model that fails: among training entities or, where the entity has a
        catalogue of its own, in its support."""
        if entity.catalog is None:
            return self.popularity_scores
        items = torch.tensor(entity.items, dtype=torch.int64)
        return torch.bincount(items, minlength=self.size(entity.catalog)).float().log1p()


def _digest(new: NewItemBlock | None, hidden: IntArray, titles: Mapping[str, str]) -> str:
    """Digest of all that lists depend on beside the model; empty where there is nothing."""
    if new is None and not len(hidden) and not titles:
        return ""
    digest = hashlib.blake2b(hidden.tobytes() + repr(sorted(titles.items())).encode(errors="replace"), digest_size=12)
    if new is not None:
        digest.update(new.digest())
    return digest.hexdigest()
