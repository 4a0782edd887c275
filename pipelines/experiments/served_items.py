"""The way in which servers place new items, on a task of the evaluation: `served` of `compare --scenario items`."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pipelines.experiments.new_item_choices import LIFTS, choose_form, choose_weights
from recsys_meta.core.dataset import Dataset
from recsys_meta.core.feature_tensors import lookup_rows
from recsys_meta.core.types import FIRST, FloatArray, IntArray
from recsys_meta.evaluation.new_items.item_evaluation import ItemEvaluation
from recsys_meta.inference.new_items.content_columns import ContentColumns
from recsys_meta.inference.new_items.item_placer import MOST_TASTES, PLACES, column_counts
from recsys_meta.inference.new_items.item_relevance import EntityInputs
from recsys_meta.inference.new_items.known_content import KnownContent
from recsys_meta.inference.new_items.known_histories import KnownHistories
from recsys_meta.inference.new_items.new_item_block import MOST_GUIDES, NewItemBlock, build_block, entity_inputs
from recsys_meta.inference.new_items.probe_entities import MOST_PROBES
from recsys_meta.inference.new_items.relevance_choices import BIN_EVENTS, BinChoices, RelevanceChoices, event_bin
from recsys_meta.inference.new_items.score_projection import ScoreProjection, fit_projection
from recsys_meta.inference.new_items.stored_items import ItemEvidence
from recsys_meta.models.new_items.content_form import ContentForm
from recsys_meta.models.new_items.content_profiles import ContentValues, Rows
from recsys_meta.models.new_items.item_task import ItemTask, Scores


class ServedItems:
    """Places new items of a data set as a server would whose model ranks known items as the evaluation does. Choices
    are made on validation items, as after a training on items that are held out from signals."""

    def __init__(self, evaluation: ItemEvaluation) -> None:
        self._evaluation, self._data, self._task = evaluation, evaluation.data, evaluation.task
        self._chosen: dict[int, BinChoices] = {}

    def build(self, task: ItemTask) -> Scores:
        """Make scores of a task's new items, in the units of `WholeCatalogue.known_scores`."""
        number = event_bin(int(task.shots.max()))
        if number not in self._chosen:
            self._chosen[number] = self._choose(BIN_EVENTS[number])
        return self._scores(self._block(task, RelevanceChoices(self._form, [self._chosen[number]])))

    def _choose(self, events: int) -> BinChoices:
        """Choose weights and places for items with some events, on validation items with as many."""
        point = self._evaluation.validation_point(events)
        entities = point.sample()

        def build(choices: RelevanceChoices) -> NewItemBlock:
            return self._block(point.task, choices)

        groups = self._known(RelevanceChoices(self._form, ())).profiles.groups
        inputs = self._inputs(entities)
        choices_of_bin = choose_weights(build, self._form, groups, inputs, point.quality_for(entities))
        ranking = build(RelevanceChoices(self._form, [choices_of_bin])).ranking
        if ranking is None:
            return choices_of_bin
        relevance = ranking.relevance

        def scores(some: IntArray) -> FloatArray:
            return relevance.scores(self._inputs(some))

        return replace(choices_of_bin, placement=self._evaluation.whole.choose_placement(scores, point, LIFTS))

    @cached_property
    def _form(self) -> ContentForm:
        point = self._evaluation.validation_point(0)
        entities = point.sample()
        histories = self._task.history[entities]
        return choose_form(self._values, self._rows, histories, point.quality_for(entities))

    def _scores(self, block: NewItemBlock) -> Scores:
        def scores(users: IntArray) -> FloatArray:
            known, unmet = self._evaluation.whole.known_scores(users)
            histories = KnownHistories(self._task.history[users], unmet)
            return np.asarray(block.extend(_padded_scores(known), histories)[:, -len(block.names) :].numpy())

        return scores

    def _block(self, task: ItemTask, choices: RelevanceChoices) -> NewItemBlock:
        projection = self._projection
        content = projection.reduce(self._contents[1])
        names = [str(item) for item in task.new]
        return build_block(projection, names, content, self._evidence(task), self._known(choices), self._rows)

    def _inputs(self, users: IntArray) -> EntityInputs:
        known, unmet = self._evaluation.whole.known_scores(users)
        coordinates = _padded_scores(known) @ self._projection.table
        histories = KnownHistories(self._task.history[users], unmet)
        return entity_inputs(torch.from_numpy(known), coordinates[:, :-1], histories)

    def _known(self, choices: RelevanceChoices) -> KnownContent:
        return KnownContent(self._values, self._projection.reduce(self._contents[0]), self._counts, choices)

    @cached_property
    def _counts(self) -> FloatArray:
        return np.bincount(self._task.history.indices, minlength=len(self._task.known)).astype(np.float32)

    @cached_property
    def _features(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        known, new = (lookup_rows(self._data.items, items) for items in (self._task.known, self._task.new))
        return known, new

    @cached_property
    def _contents(self) -> tuple[Tensor, Tensor]:
        """Content of known [M, L] and new items [N, L] in the columns that the regression is fitted on."""
        known, new = self._features
        fitted, _ = column_counts(len(self._task.known))
        columns = ContentColumns.fit({name: _padded(values) for name, values in known.items()}, fitted)
        return columns.encode(known, len(self._task.known)), columns.encode(new, len(self._task.new))

    @cached_property
    def _values(self) -> ContentValues:
        return ContentValues.fit(self._features[0], {n: p[0] for n, p in _named_items(self._data, self._task).items()})

    @cached_property
    def _rows(self) -> Rows:
        own_ids = {name: ids for name, (_, ids) in _named_items(self._data, self._task).items()}
        return self._values.rows(self._features[1], own_ids)

    @cached_property
    def _projection(self) -> ScoreProjection:
        """The projection, fitted to probe entities of one event."""
        counts = self._counts
        chance = np.sqrt(counts) / np.sqrt(counts).sum()
        probes = np.random.default_rng(0).choice(len(counts), min(MOST_PROBES, (counts > 0).sum()), False, chance)
        scores = _padded_scores(self._evaluation.whole.scores_after(probes))
        _, left = column_counts(len(counts))
        return fit_projection(scores, self._contents[0], _padded_scores(counts[None])[0], MOST_TASTES, PLACES, left)

    def _evidence(self, task: ItemTask) -> dict[str, ItemEvidence]:
        """First events of the new items, by their id. At a point of the curve all have as many, however popular they
        are: their number is no evidence."""
        first = task.support.T.tocsr()
        users = np.unique(task.support.tocoo().row)
        if not len(users):
            return {}
        tastes = self._projection.tastes(_padded_scores(self._evaluation.whole.known_scores(users)[0]))
        histories = np.split(task.history[users].indices, task.history[users].indptr[1:-1])
        evidence = {}
        for position in np.flatnonzero(task.shots):
            guides = first.indices[first.indptr[position] : first.indptr[position + 1]]
            at = np.searchsorted(users, guides[:MOST_GUIDES])
            some = [(histories[i] + FIRST).tolist() for i in at]
            evidence[str(task.new[position])] = ItemEvidence(len(guides), None, tastes[torch.from_numpy(at)], some)
        return evidence


def _named_items(data: Dataset, task: ItemTask) -> dict[str, tuple[IntArray, IntArray]]:
    """Find which known item each padded id of a feature names, -1 for none, and the ids that name new ones, or 0."""
    positions: dict[str, tuple[IntArray, IntArray]] = {}
    for name, column in data.items.items():
        if column.numeric:
            continue
        item = np.concatenate([np.zeros(FIRST, np.int64), data.vocab.ids("item", data.vocab.values[f"item.{name}"])])
        position = np.full(data.catalogue, -1)
        position[task.known] = np.arange(len(task.known))
        position[:FIRST] = -1
        own_ids = np.zeros(data.catalogue, np.int64)
        own_ids[item] = np.arange(len(item))
        positions[name] = position[item], own_ids[task.new]
    return positions


def _padded(values: Tensor) -> Tensor:
    return torch.cat([values[:1].expand(FIRST, *values.shape[1:]), values])


def _padded_scores(scores: FloatArray) -> Tensor:
    return torch.nn.functional.pad(torch.from_numpy(np.ascontiguousarray(scores, np.float32)), (FIRST, 0))
