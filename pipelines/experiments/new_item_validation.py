"""Choices for new items after a training: some of the model's own items are taken for new ones, and meta-validation
entities say who likes them.

What the model learned of these items is not looked at: their rows are left out of supports, and their scores and
content out of all that new items are compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from pipelines.experiments.meta_validation import validation_entities
from pipelines.experiments.new_item_choices import LIFTS, choose_form, choose_weights
from pipelines.experiments.training_inputs import TrainingInputs, default_shots
from recsys_meta.core.types import FIRST, FloatArray, IntArray, TaskBatch
from recsys_meta.episodes.event_index import EventIndex, order_rows
from recsys_meta.evaluation.cold_start import episodes_at
from recsys_meta.evaluation.new_items.merged_lists import LeadingItems, MergedLists
from recsys_meta.inference.new_items.content_columns import ContentColumns
from recsys_meta.inference.new_items.item_placer import MOST_TASTES, PLACES, column_counts, named_items
from recsys_meta.inference.new_items.item_relevance import EntityInputs
from recsys_meta.inference.new_items.known_content import KnownContent
from recsys_meta.inference.new_items.known_histories import KnownHistories, KnownLevels
from recsys_meta.inference.new_items.new_item_block import NewItemBlock, build_block, entity_inputs
from recsys_meta.inference.new_items.probe_entities import probe_requests
from recsys_meta.inference.new_items.relevance_choices import (
    BIN_EVENTS,
    NEW_ITEM_CHOICES,
    BinChoices,
    RelevanceChoices,
)
from recsys_meta.inference.new_items.score_projection import ScoreProjection, fit_projection
from recsys_meta.inference.new_items.stored_items import ItemEvidence
from recsys_meta.inference.recommender import Recommender
from recsys_meta.metrics.ranking_metrics import ndcg
from recsys_meta.models.bundle import Bundle
from recsys_meta.models.functional.embeddings import catalogue_features
from recsys_meta.models.new_items.content_profiles import ContentProfiles, ContentValues, Rows
from recsys_meta.models.new_items.signal_blend import Quality
from recsys_meta.training.recipe import Recipe

NEW_SHARE, MOST_NEW, LEAST_NEW = 0.2, 1000, 10
"""Share of a model's items that are taken for new ones; most and least of them."""

LEAST_ENTITIES, MOST_ENTITIES = 20, 500
"""Entities that choices are made on."""

MOST_SCORES = 12_000_000
"""Scores of all these entities that are held."""

GUIDES = 600
"""Training entities, at most, whose likes are the first events of new items."""

GUIDE_SIZES = (20, 5, 1)
"""Events that are read of each, the most of these that it has."""

TASKS = 64
"""Entities that are adapted at once."""


def with_new_item_choices(
    bundle: Bundle, inputs: TrainingInputs, recipe: Recipe, notify: Callable[[str], None] = lambda _: None
) -> Bundle:
    """Add to a bundle of rankings how new items are placed, as is best on meta-validation; what there is too little
    data for is left out, and all of it where the recipe does not ask for it."""
    if not recipe.new_items.choose:
        return bundle
    if inputs.data.schema.objective != "ranking" or inputs.data.schema.home is not None:
        return bundle
    held_out = HeldOutItems(bundle, inputs, recipe)
    if len(held_out.new) < LEAST_NEW or len(held_out.scores) < LEAST_ENTITIES:
        return bundle
    notify("choosing how new items are placed")
    return replace(bundle, about={**bundle.about, NEW_ITEM_CHOICES: held_out.choices().to_json()})


@dataclass(frozen=True)
class HeldOutItems:
    """Items of a model that are taken for new ones: `new` [N] and `known` [M] are positions in its catalogue."""

    bundle: Bundle
    inputs: TrainingInputs
    recipe: Recipe

    @cached_property
    def new(self) -> IntArray:
        """Positions of the items that are taken for new ones."""
        count = len(self.bundle.popularity) - FIRST
        most = min(MOST_NEW, round(NEW_SHARE * count))
        return np.sort(np.random.default_rng(self.inputs.seed).permutation(count)[:most])

    @cached_property
    def known(self) -> IntArray:
        """Positions of all others."""
        return np.setdiff1d(np.arange(len(self.bundle.popularity) - FIRST), self.new)

    def choices(self) -> RelevanceChoices:
        """Choose form, weights and places."""
        everyone = np.arange(len(self.new))
        form = choose_form(self._values, self._rows(everyone), self.histories.liked, self._quality(everyone))
        groups = ContentProfiles(self._values, form).groups
        bins: list[BinChoices] = []
        for events in BIN_EVENTS:
            at = np.flatnonzero(self._first_likes[1] >= events) if events else everyone
            if len(at) < LEAST_NEW:
                break

            def build(choices: RelevanceChoices, at: IntArray = at, events: int = events) -> NewItemBlock:
                return self._block(at, events, choices)

            choices_of_bin = choose_weights(build, form, groups, self._entity_inputs, self._quality(at))
            bins.append(self._with_placement(choices_of_bin, build(RelevanceChoices(form, [choices_of_bin])), at))
        return RelevanceChoices(form, bins)

    def _with_placement(self, chosen: BinChoices, block: NewItemBlock, at: IntArray) -> BinChoices:
        if block.ranking is None:
            return chosen
        z = torch.from_numpy(block.ranking.relevance.scores(self._entity_inputs))
        levels = KnownLevels.of(self.scores, self.histories.unmet)
        scores = (self.scores - torch.from_numpy(levels.mean)) / torch.from_numpy(levels.deviation)
        known = LeadingItems.of(scores.float(), self._likes[:, self.known], torch.from_numpy(self.histories.unmet))
        new = LeadingItems.of(z, self._likes[:, self.new[at]], torch.ones_like(z, dtype=torch.bool))
        return replace(chosen, placement=MergedLists(known, new).choose_placement(LIFTS))

    @cached_property
    def recommender(self) -> Recommender:
        """The model as it is served."""
        return Recommender(self.bundle)

    @cached_property
    def _index(self) -> EventIndex:
        """Rows in the order in which supports grow."""
        inputs = self.inputs
        return order_rows(inputs.train_index.to("cpu"), inputs.data.schema.order, inputs.seed)

    @cached_property
    def _known_index(self) -> EventIndex:
        """Rows of known items."""
        is_known = torch.zeros(self.inputs.data.catalogue, dtype=torch.bool)
        is_known[torch.from_numpy(self.known + FIRST)] = True
        return self._index.select(is_known[self._index.item.long()])

    @cached_property
    def _episodes(self) -> list[TaskBatch]:
        """Episodes of meta-validation entities, each with one number of shots, in batches of equal ones."""
        entities = np.sort(validation_entities(self.inputs, self.recipe))
        most = min(MOST_ENTITIES, max(LEAST_ENTITIES, MOST_SCORES // self.inputs.data.catalogue))
        entities = entities[:: max(1, -(-len(entities) // most))]
        shots = [k for k in default_shots(self.inputs.data, self.inputs.scenario) if k]
        return self._batches([entities[i :: len(shots)] for i in range(len(shots))], shots)

    def _batches(self, parts: Sequence[IntArray], sizes: Sequence[int]) -> list[TaskBatch]:
        data, index, batches = self.inputs.data, self._known_index, []
        for part, size in zip(parts, sizes, strict=True):
            able = part[index.has_support(part, size, 1, data.schema.query_from)]
            batches += [episodes_at(data, index, able[i : i + TASKS], size) for i in range(0, len(able), TASKS)]
        return batches

    @cached_property
    def scores(self) -> Tensor:
        """Scores [u, M] of known items."""
        return self._scores_of(self._episodes)

    def _scores_of(self, batches: Sequence[TaskBatch]) -> Tensor:
        predictor, body, parts = self.bundle.predictor, self.recommender.body, [torch.zeros(0, len(self.known))]
        with torch.no_grad():
            for batch in batches:
                scores = predictor.rank(body, predictor.adapt(body, batch.support))
                parts.append(scores[:, torch.from_numpy(self.known + FIRST)])
        return torch.cat(parts)

    @cached_property
    def histories(self) -> KnownHistories:
        """Likes of the entities among known items, in their supports."""
        likes = self._liked(self._episodes)
        return KnownHistories(likes, likes.toarray() == 0)

    def _liked(self, batches: Sequence[TaskBatch]) -> sp.csr_matrix:
        column = np.full(self.inputs.data.catalogue, -1)
        column[self.known + FIRST] = np.arange(len(self.known))
        parts = [sp.csr_matrix((0, len(self.known)), dtype=np.float32)]
        for batch in batches:
            rows = batch.support.rows
            row, at = np.nonzero(rows.mask.numpy())
            cells = row, column[rows.item.numpy()[row, at]]
            shape = len(rows.item), len(self.known)
            parts.append(sp.csr_matrix((np.ones(len(row), np.float32), cells), shape=shape))
        matrix = sp.vstack(parts).tocsr()
        matrix.data[:] = 1
        return matrix

    @cached_property
    def _likes(self) -> Tensor:
        """Likes of the entities beside their supports, [u, C - FIRST] bool."""
        entities = np.concatenate([batch.entity.numpy() for batch in self._episodes])
        task, item, _ = self._index.of_entities(entities)
        likes = torch.zeros(len(entities), len(self.bundle.popularity), dtype=torch.bool)
        likes[task, item] = True
        likes = likes[:, FIRST:]
        support = self.histories.liked.tocoo()
        likes[torch.from_numpy(support.row).long(), torch.from_numpy(self.known[support.col])] = False
        return likes

    def _quality(self, at: IntArray) -> Quality:
        """Quality of scores [u, n] of some new items: nDCG@20."""
        likes = self._likes[:, self.new[at]]
        everything = torch.ones_like(likes)

        def quality(scores: FloatArray, some: IntArray) -> float:
            values = torch.from_numpy(np.ascontiguousarray(scores, np.float32))
            return float(ndcg(values, likes[some], everything[some], 20).nanmean().nan_to_num())

        return quality

    @cached_property
    def _features(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        features = {k: v[FIRST:] for k, v in catalogue_features(self.bundle.params).items()}
        return {k: v[self.known] for k, v in features.items()}, {k: v[self.new] for k, v in features.items()}

    @cached_property
    def _named(self) -> dict[str, IntArray]:
        """Items that the padded ids of a feature name."""
        return named_items(self.bundle)

    @cached_property
    def _values(self) -> ContentValues:
        position = np.full(len(self.known) + len(self.new) + 1, -1)
        position[self.known] = np.arange(len(self.known))
        return ContentValues.fit(self._features[0], {name: position[ids] for name, ids in self._named.items()})

    def _rows(self, at: IntArray) -> Rows:
        own_ids = {}
        for name in self._values.links:
            by_item = np.zeros(len(self.known) + len(self.new) + 1, np.int64)
            by_item[self._named[name]] = np.arange(len(self._named[name]))
            own_ids[name] = by_item[self.new[at]]
        return self._values.rows({name: values[at] for name, values in self._features[1].items()}, own_ids)

    @cached_property
    def _contents(self) -> tuple[Tensor, Tensor]:
        known, new = self._features
        catalogue = {k: torch.cat([v[:1].expand(FIRST, *v.shape[1:]), v]) for k, v in known.items()}
        columns = ContentColumns.fit(catalogue, column_counts(len(self.known))[0])
        return columns.encode(known, len(self.known)), columns.encode(new, len(self.new))

    @cached_property
    def _projection(self) -> ScoreProjection:
        model, counts = self.recommender, self.bundle.popularity[FIRST:][self.known]
        names = [model.catalog.names[i] for i in self.known.tolist()]
        requests = probe_requests(names, _padded(counts[None])[0], 1.0)
        scores = model.scores(model.adapt([model.read_support(request) for request in requests]))
        some = scores[:, torch.from_numpy(self.known + FIRST)]
        _, left = column_counts(len(self.known))
        return fit_projection(_padded(some), self._contents[0], _padded(counts[None])[0], MOST_TASTES, PLACES, left)

    @cached_property
    def _entity_inputs(self) -> EntityInputs:
        coordinates = _padded(self.scores) @ self._projection.table
        return entity_inputs(self.scores, coordinates[:, :-1], self.histories)

    def _block(self, at: IntArray, events: int, choices: RelevanceChoices) -> NewItemBlock:
        counts = np.asarray(self.bundle.popularity[FIRST:].numpy())[self.known]
        known = KnownContent(self._values, self._projection.reduce(self._contents[0]), counts, choices)
        names = [str(i) for i in self.new[at].tolist()]
        return build_block(
            self._projection,
            names,
            self._projection.reduce(self._contents[1][at]),
            self._evidence(at, events),
            known,
            self._rows(at),
        )

    @cached_property
    def _guides(self) -> tuple[IntArray, Tensor, list[list[int]]]:
        """Training entities, the tastes of each, and the known items that each liked."""
        train, index = self.inputs.split.train, self._known_index
        some = np.random.default_rng(self.inputs.seed).permutation(train)[:GUIDES]
        parts, left = [], some
        for size in GUIDE_SIZES:
            able = index.has_support(left, size, 1, self.inputs.data.schema.query_from)
            parts.append(left[able])
            left = left[~able]
        batches = self._batches(parts, GUIDE_SIZES)
        if not batches:
            return np.zeros(0, np.int64), torch.zeros(0, self._projection.rank), []
        entities = np.concatenate([batch.entity.numpy() for batch in batches])
        likes = self._liked(batches)
        histories = [(part + FIRST).tolist() for part in np.split(likes.indices, likes.indptr[1:-1])]
        return entities, self._projection.tastes(_padded(self._scores_of(batches))), histories

    @cached_property
    def _first_likes(self) -> tuple[list[IntArray], IntArray]:
        """Guides (their positions) that like each new item, in a random order, and how many there are, [N]."""
        entities = self._guides[0]
        rows = self._index.of_entities(entities)
        order = np.random.default_rng(self.inputs.seed).permutation(len(rows[0]))
        task, item = rows[0].numpy()[order], rows[1].numpy()[order] - FIRST
        order = np.argsort(item, kind="stable")
        task, item = task[order], item[order]
        begin, end = np.searchsorted(item, self.new), np.searchsorted(item, self.new, side="right")
        return [task[a:b] for a, b in zip(begin, end, strict=True)], end - begin

    def _evidence(self, at: IntArray, events: int) -> dict[str, ItemEvidence]:
        """The first `events` likes of some new items. All have as many, however popular they are: their number is no
        evidence."""
        if not events:
            return {}
        _, tastes, histories = self._guides
        evidence = {}
        for i in at.tolist():
            first = self._first_likes[0][i][:events]
            one = ItemEvidence(events, None, tastes[torch.from_numpy(first)], [histories[j] for j in first])
            evidence[str(self.new[i])] = one
        return evidence


def _padded(scores: Tensor) -> Tensor:
    return torch.nn.functional.pad(scores, (FIRST, 0))
