"""From an entity's raw events to scores: the only adaptation code that serving, batch jobs and the command line have.

It calls the same `collate`, `adapt` and `rank` as training and evaluation. A `Recommender` answers the same whatever it
was asked before, and may be shared by threads.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FIRST, Interactions, State
from recsys_meta.inference.batch_invariance import least_batch, rank_in_batch_of, trial_requests
from recsys_meta.inference.new_items.item_placer import ItemPlacer
from recsys_meta.inference.new_items.known_histories import KnownHistories
from recsys_meta.inference.new_items.new_item_block import Basis, NewItemBlock, nearest_items
from recsys_meta.inference.new_items.probe_entities import sized_probe_requests
from recsys_meta.inference.new_items.stored_items import Evidence, StoredItem
from recsys_meta.inference.ranking.catalogue_sketch import CatalogueSketch, best_items, find_sketch
from recsys_meta.inference.ranking.item_catalog import ItemCatalog
from recsys_meta.inference.ranking.list_builder import ListBuilder
from recsys_meta.inference.requests.encoder import RequestEncoder
from recsys_meta.inference.requests.entity import EncodedEntity, EntityRequest
from recsys_meta.inference.requests.query_context import EncodedQuery, QueryEncoder
from recsys_meta.inference.requests.support_reader import SupportReader
from recsys_meta.inference.state_codec import dump_state, quantize, round_coarse
from recsys_meta.inference.warm_starts import WarmStarts
from recsys_meta.models.bundle import Bundle
from recsys_meta.models.ensemble.factor_ranking import factor_ranking
from recsys_meta.models.protocols import ChoicePredictor, UncertainPredictor, WarmStartPredictor

MOST_NEW_ITEMS = 100_000
"""New items that are ranked, those that were changed last: each takes two to four kilobytes of a process."""


class Recommender:
    """Adapts and scores with one bundle.

    catalog: its items; reader: raw events to supports; encoder: supports and rows to tensors; queries: contexts to
    rows; lists: scores to lists; new_items: those that came after the training (`with_items`), None where there are
    none; sketch: what finds the best of many items, None where all are scored. Tensors are for one entity (T = 1)
    unless said otherwise.
    """

    new_items: NewItemBlock | None = None
    sketch: CatalogueSketch | None = None

    def __init__(self, bundle: Bundle, sketch_from: int = 0) -> None:
        """With `sketch_from` a catalogue of at least so many items gets a sketch, where one finds what it has to.

        Raises ConfigError for a bundle of choices whose predictor cannot choose."""
        predictor, schema = bundle.predictor, bundle.schema
        if schema.objective == "choice" and not isinstance(predictor, ChoicePredictor):
            raise ConfigError(f"the model's objective is 'choice', but its predictor '{predictor.name}' cannot choose")
        self.bundle = bundle
        with torch.no_grad():
            self.body = predictor.body({name: leaf.detach() for name, leaf in bundle.params.items()})
        self.catalog = self._model_catalog = ItemCatalog(bundle)
        keeps_order: bool = getattr(predictor, "reads_order", False)
        self.reader = SupportReader(schema, self.catalog.ids, keeps_order=keeps_order)
        item_features = self.catalog.features if schema.home else {}
        self.encoder = RequestEncoder(schema, bundle.vocab, self.catalog.ids, item_features)
        self.queries = QueryEncoder(schema, self.reader.fields, self.encoder)
        self.lists = ListBuilder(self.catalog, self.encoder, self.queries)
        self._placer = ItemPlacer(bundle, self.catalog.names, self._score_requests)
        self._coarse: Collection[str] = getattr(predictor, "coarse", ())
        # Checked once: an isinstance of a protocol takes as long as a small adaptation.
        self.is_uncertain = isinstance(predictor, UncertainPredictor)
        self._warm_starts: WarmStarts | None = None
        if isinstance(predictor, WarmStartPredictor):
            self._warm_starts = WarmStarts(predictor, self.body, self.encoder.support)
        if 0 < sketch_from <= len(self.catalog.names):
            self.sketch = self._find_sketch()

    @property
    def version(self) -> str:
        """The bundle's version."""
        return self.bundle.version

    def with_items(self, items: Sequence[StoredItem], evidence: Evidence | None = None) -> Recommender:
        """Return the same recommender for the items that are stored now: with new ones, without those that are not
        available. It shares all else with this one, which stays as it is. Raises what the model raises.

        An item that the model was trained on keeps its place there. Where entities have catalogues of their own nothing
        changes.
        """
        if self.bundle.schema.home is not None:
            return self
        own = self._model_catalog
        new = [item for item in items if item.available and item.name not in own.ids][-MOST_NEW_ITEMS:]
        new.sort(key=lambda item: item.name)  # whoever read them, in whichever order, ranks equal ones alike
        features = self._placer.encode(new)
        block = self._placer.place(new, features, evidence or {}) if new else None
        other = copy(self)
        hidden = [item.name for item in items if not item.available]
        titles = {item.name: item.title for item in items if item.title is not None}
        other.new_items, other.catalog = block, own.with_items(block, features, titles, hidden)
        other.reader = self.reader.with_new_items(other.catalog.new_ids)
        other.lists = ListBuilder(other.catalog, self.encoder, self.queries)
        if block is not None:  # where new items stand follows from the scores of all others
            other.sketch = None
        for name in ("_min_batch", "batch_invariant"):  # tried out anew, now: no request shall wait for it
            other.__dict__.pop(name, None)
        _ = other.batch_invariant
        return other

    @property
    def own_items(self) -> Mapping[str, int]:
        """Ids of the items that the model was trained on, by name."""
        return self._model_catalog.ids

    def placed_by(self, item: int) -> tuple[Basis, int] | None:
        """Return what a new item (its id) was placed by, and the number of its first likes; None for one that the model
        was trained on."""
        position = item - self._model_catalog.size()
        return None if self.new_items is None or position < 0 else self.new_items.basis(position)

    def similar_items(self, item: int, n: int, mask: Tensor | None = None) -> list[tuple[float, int]]:
        """Find the n items that entities like as they like one: cosines and ids, the most similar first, among those of
        a mask [C] bool and none that is hidden. Raises what the model raises."""
        places = self._placer.projection.places
        if self.new_items is not None:
            places = torch.cat([places, self.new_items.places])
        allowed = torch.ones(len(places), dtype=torch.bool) if mask is None else mask.clone()
        allowed[:FIRST] = False
        allowed[self.catalog.hidden_ids] = False
        return nearest_items(places, item, allowed, n)

    def tastes(self, entities: Sequence[EncodedEntity]) -> Tensor:
        """Coordinates [T, R] of T entities' tastes, from which new items are placed."""
        return self._placer.projection.tastes(self._model_scores(self.adapt(entities)))

    def read_support(self, request: EntityRequest) -> EncodedEntity:
        """Read an entity's raw features and events, the first of the steps to a list. Raises DataError as
        `SupportReader.read`."""
        return self.reader.read(request)

    def adapt(self, entities: Sequence[EncodedEntity]) -> State:
        """Adapt to T entities; return their states, rounded as a cache would hold them, so that an answer never depends
        on what was cached. Raises DataError for a wrong feature."""
        return round_coarse(self._adapt(entities), self._coarse)

    def adapt_and_serialize(self, entities: Sequence[EncodedEntity]) -> tuple[State, list[bytes]]:
        """Adapt to T entities; return their states and, for each, the serialized bytes that `load_state` reads."""
        return quantize(self._adapt(entities), self._coarse)

    def _adapt(self, entities: Sequence[EncodedEntity]) -> State:
        warm_starts = self._warm_starts
        with torch.no_grad():  # not as a decorator, which takes twice as long
            starts = None if warm_starts is None else warm_starts.of(entities)
            if warm_starts is None or starts is None:
                return self.bundle.predictor.adapt(self.body, self.encoder.support(entities))
            # The features were read, and refused where they are wrong, when the start was computed.
            return warm_starts.predictor.adapt_from(self.body, starts, self.encoder.support(entities, lazily=True))

    def dump(self, state: State) -> bytes:
        """Serialize a state for `load_state`."""
        return dump_state(state, self._coarse)

    @cached_property
    def batch_invariant(self) -> bool:
        """True where an entity gets the same scores, to the last bit, whichever entities are adapted and ranked with
        it, so that a micro-batch may answer requests of several. Tried out on this machine when first read."""
        return self._min_batch > 0

    @cached_property
    def _min_batch(self) -> int:
        """Entities that are ranked at once, at least, so that their number changes no bit; 0 where it does."""
        if self._warm_starts is None:
            return 0
        try:
            entities = [self.read_support(request) for request in trial_requests(self.catalog.names)]
            with torch.no_grad():
                return least_batch(self.adapt, self._rank_all, entities)
        except Exception:  # a model that fails will say so to the first who adapts with it
            return 0

    def scores(self, state: State, entities: Sequence[EncodedEntity] | None = None) -> Tensor:
        """Score the whole catalogue for T states, [T, C]: the model's items, and the new ones after them.

        entities: whose states they are. Where new items stand depends on what an entity has met; without entities they
        are placed as for some that have met nothing.
        """
        with torch.no_grad():
            return self._extend(rank_in_batch_of(self._min_batch, self._rank, state), entities)

    def best_scores(self, state: State, entities: Sequence[EncodedEntity] | None = None) -> Tensor:
        """Score the whole catalogue for T states, [T, C], where only the best items matter: with a sketch some hundreds
        have the scores of `scores`, up to rounding, and the others lower ones in a rough order."""
        return self.scores(state, entities) if self.sketch is None else self.sketch.scores(state)

    def sketch_recall(self, entity: EncodedEntity) -> float | None:
        """Compute the share of an entity's ten best items, by all scores, that are its ten best by `best_scores`; None
        without a sketch."""
        if self.sketch is None:
            return None
        state = self.adapt([entity])
        return float(self.sketch.recall(state, best_items(self.scores(state))))

    def _find_sketch(self) -> CatalogueSketch | None:
        requests = sized_probe_requests(self.catalog.names, self.catalog.popularity_scores)
        try:
            with torch.no_grad():
                states = [self.adapt([self.read_support(request) for request in part]) for part in requests]
                return find_sketch(factor_ranking(self.bundle.predictor, self.body), states, self._model_scores)
        except Exception:  # a model that fails will say so to the first who adapts with it
            return None

    def _rank_all(self, state: State, entities: Sequence[EncodedEntity]) -> Tensor:
        return self._extend(self._rank(state), entities)

    def _extend(self, scores: Tensor, entities: Sequence[EncodedEntity] | None) -> Tensor:
        if self.new_items is None:
            return scores
        histories = None
        if entities is not None and self.new_items.ranking is not None:
            histories = KnownHistories.of(entities, scores.shape[1] - FIRST, self.catalog.hidden_ids)
        return self.new_items.extend(scores, histories)

    @torch.no_grad()
    def _model_scores(self, state: State) -> Tensor:
        return rank_in_batch_of(self._min_batch, self._rank, state)

    def _score_requests(self, requests: Sequence[EntityRequest]) -> Tensor:
        """Score the model's own items for entities, [T, C]."""
        return self._model_scores(self.adapt([self.read_support(request) for request in requests]))

    def _rank(self, state: State) -> Tensor:
        return self.bundle.predictor.rank(self.body, state)

    def score_catalog(
        self, state: State, query: EncodedQuery | None = None, entity: EncodedEntity | None = None
    ) -> Tensor:
        """Score one entity's whole catalogue, [C], in the context of a query where there is one; see `scores`."""
        return self.score_catalogs(state, query, None if entity is None else [entity])[0]

    @torch.no_grad()
    def score_catalogs(
        self, state: State, query: EncodedQuery | None = None, entities: Sequence[EncodedEntity] | None = None
    ) -> Tensor:
        """Score the whole catalogue for T states, [T, C], in the context of a query where there is one; as `scores`."""
        if query is None:
            return self.scores(state, entities)
        predictor, items = self.bundle.predictor, torch.arange(query.catalog_size)
        tasks = next(iter(state.values())).shape[0]
        rows = query.rows.map(lambda t: t.expand(tasks, *t.shape[1:]))
        if isinstance(predictor, ChoicePredictor):
            scores = predictor.choose(self.body, state, rows, items.expand(tasks, 1, -1))[:, 0]
            return scores.masked_fill(items < FIRST, 0.0)
        wide = rows.map(lambda t: t.expand(tasks, len(items), *t.shape[2:]))
        return self._extend(predictor.score(self.body, state, replace(wide, item=items.expand(tasks, -1))), entities)

    @torch.no_grad()
    def score_rows(self, state: State, rows: Interactions) -> Tensor:
        """Score rows, [T, R]: logits for rankings and clicks, label units for ratings."""
        return self.bundle.predictor.score(self.body, state, rows)

    @torch.no_grad()
    def score_std(self, state: State, rows: Interactions) -> Tensor | None:
        """Return the standard deviation [T, R] of the scores of rows; None where the predictor has none."""
        predictor = self.bundle.predictor
        return predictor.score_std(self.body, state, rows) if isinstance(predictor, UncertainPredictor) else None
