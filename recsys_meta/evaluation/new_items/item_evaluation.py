"""Evaluation of methods for new items: one curve over the first interactions of new items, entities being known.

Settings and weights are chosen on validation items alone. An entity counts where it took a new item after that item's
support; what it took within the support is no candidate for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FloatArray, IntArray
from recsys_meta.episodes.item_split import COLD_TEST, COLD_VALID, TRAIN, WARM_TEST, WARM_VALID, ItemSplit
from recsys_meta.evaluation.curve import ColdStartCurve
from recsys_meta.evaluation.new_items.whole_catalogue import CataloguePlacement, WholeCatalogue
from recsys_meta.metrics.ranking_metrics import NEW_ITEMS, ndcg, new_item_metrics
from recsys_meta.models.new_items.item_content import ItemContent
from recsys_meta.models.new_items.item_task import ItemTask, Scores
from recsys_meta.models.new_items.methods import ITEM_BASELINES, ItemMethod
from recsys_meta.models.new_items.signal_blend import (
    FORMS,
    ContentForm,
    Quality,
    blend_signals,
    blended,
    content_score,
    select_weights,
    stack_signals,
)

BLOCK = 512
"""Entities that are ranked at once."""

ALONE = "no-new-items"
"""Name under which the known items' own lists are evaluated."""

VALIDATION_ENTITIES = 500
VALIDATION_SCORES = 1 << 21
"""Entities that choices are made on, and the most scores of one signal for them."""


@dataclass(frozen=True)
class ItemPoint:
    """One point of the curve for validation or test items: query [U, N], what entities took after the supports;
    candidates [N], the new items that are ranked; `entities` [u] with a query."""

    task: ItemTask
    query: sp.csr_matrix
    candidates: FloatArray
    entities: IntArray

    def liked(self, entities: IntArray) -> FloatArray:
        """Mark the items that entities took, [u, N]."""
        return np.asarray(self.query[entities].todense(), np.float32)

    def open_for(self, entities: IntArray) -> FloatArray:
        """Candidates of entities [u, N]: those without the items that they took in a support."""
        return self.candidates * (1 - np.asarray(self.task.support[entities].todense(), np.float32))

    def metrics(self, scores: Scores, entities: IntArray) -> dict[str, FloatArray]:
        """Metrics of some entities, each [u]."""
        generator, parts = torch.Generator().manual_seed(0), []
        for start in range(0, len(entities), BLOCK):
            some = entities[start : start + BLOCK]
            liked, candidates = torch.from_numpy(self.liked(some)) > 0, torch.from_numpy(self.open_for(some)) > 0
            values = torch.from_numpy(np.array(scores(some), np.float32))
            parts.append(new_item_metrics(values, liked, candidates, generator))
        return {name: np.concatenate([p[name].double().numpy() for p in parts]) for name in NEW_ITEMS}

    def quality(self, scores: Scores, entities: IntArray) -> float:
        """Mean nDCG@20 of some entities: what choices are made by."""
        return self.quality_for(entities)(scores(entities), np.arange(len(entities)))

    def quality_for(self, entities: IntArray) -> Quality:
        """Quality of scores for some entities, by their positions among these."""
        liked, candidates = torch.from_numpy(self.liked(entities)) > 0, torch.from_numpy(self.open_for(entities)) > 0

        def quality(scores: FloatArray, some: IntArray) -> float:
            values = torch.from_numpy(np.array(scores, np.float32))
            return float(ndcg(values, liked[some], candidates[some], 20).nanmean())

        return quality

    def sample(self) -> IntArray:
        """Some entities with a query, for choices."""
        count = min(len(self.entities), VALIDATION_ENTITIES, max(50, VALIDATION_SCORES // max(len(self.candidates), 1)))
        return np.sort(np.random.default_rng(0).choice(self.entities, count, replace=False))


@dataclass
class ItemEvaluation:
    """Points of a split at some numbers of shots, and the methods on them.

    `chosen` are settings by method and shots, `placements` where new items then stand among known ones; `among_all`
    metrics of new items in lists of the whole catalogue, over `entities()`, and `known` those of known items beside
    them, over `known_entities()`, and of `ALONE` without any.
    """

    data: Dataset
    split: ItemSplit
    shots: Sequence[int]
    chosen: dict[str, dict[int, Mapping[str, Any]]] = field(default_factory=dict)
    placements: dict[str, dict[int, CataloguePlacement]] = field(default_factory=dict)
    among_all: dict[str, dict[int, dict[str, FloatArray]]] = field(default_factory=dict)
    known: dict[str, dict[int, dict[str, FloatArray]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = self.split.items(TRAIN)
        new = self.split.items(COLD_VALID, COLD_TEST)
        history = self.split.matrix(TRAIN)[:, known].tocsr()
        nothing = sp.csr_matrix((self.split.entities, len(new)), dtype=np.float32)
        self.task = ItemTask(history, ItemContent.of(self.data, known), known, new, nothing)
        if not self.task.content.names and 0 in self.shots:
            raise ConfigError(
                f"'{self.data.schema.name}' has no features of items: with no interaction (k = 0) nothing is known of "
                "a new one. Add item_features to its schema, or leave out 0 of --shots"
            )
        self._point = cache(self._make_point)
        self._whole = WholeCatalogue(self.task)

    def _make_point(self, part: int, shots: int) -> ItemPoint:
        """New items of both parts have their supports; with a published division all of them are candidates."""
        other = COLD_VALID if part == COLD_TEST else COLD_TEST
        (support, query), (beside, _) = (self.split.support_and_query(p, shots) for p in (part, other))
        new = self.task.new
        task = replace(self.task, support=(support + beside)[:, new].tocsr())
        parts = (part, other) if self.data.schema.part else (part,)
        enough = np.zeros(self.split.catalogue)
        for one in parts:
            item, count = np.unique(self.split.item[self.split.part == one], return_counts=True)
            enough[item[count > shots]] = 1
        query = query[:, new].tocsr()
        entities = np.flatnonzero((np.diff(query.indptr) > 0) & (np.diff(task.history.indptr) > 0))
        return ItemPoint(task, query, enough[new].astype(np.float32), entities)

    def entities(self) -> IntArray:
        """Known entities with a row of a test item."""
        rows = self.split.matrix(COLD_TEST)
        return np.flatnonzero((np.diff(rows.indptr) > 0) & (np.diff(self.task.history.indptr) > 0))

    def baseline(self, name: str) -> ColdStartCurve:
        """Curve of a baseline, tuned on validation items."""
        method, first = ITEM_BASELINES[name], self.shots[0]
        values, setting = {}, self._choose(method, first, method.grid(self._point(COLD_VALID, first).task))
        for k in self.shots:
            if k and method.first:
                base = {n: v for n, v in setting.items() if n != "first"}
                setting = self._choose(method, k, [{**base, "first": v} for v in method.first])
            self.chosen.setdefault(name, {})[k] = setting
            values[k] = self._test(name, method.build(self._point(COLD_TEST, k).task, **setting), k)
        return ColdStartCurve(name, self.entities(), values)

    def has_input(self, name: str) -> bool:
        """True where a baseline has what it reads."""
        has = {"nothing": True, "content": bool(self.task.content.names), "support": max(self.shots) > 0}
        return has[ITEM_BASELINES[name].needs]

    def _choose(self, method: ItemMethod, shots: int, grid: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        if len(grid) == 1:
            return grid[0]
        point = self._point(COLD_VALID, shots)
        entities = point.sample()
        quality = [point.quality(method.build(point.task, **one), entities) for one in grid]
        return grid[int(np.argmax(quality))]

    def blend(self, name: str) -> ColdStartCurve:
        """Curve of the blend of all signals, with a form and weights from validation items."""
        values, form = {}, self._choose_form()
        for k in self.shots:
            valid = self._point(COLD_VALID, k)
            entities = valid.sample()
            signals = blend_signals(valid.task, form)
            weights = select_weights(stack_signals(signals, entities), valid.quality_for(entities))
            shown = {n: round(float(w), 3) for n, w in zip(signals, weights, strict=True) if w > 0}
            self.chosen.setdefault(name, {})[k] = {**form._asdict(), **shown}
            values[k] = self._test(name, blended(signals, weights), k)
        return ColdStartCurve(name, self.entities(), values)

    def _choose_form(self) -> ContentForm:
        if not self.task.content.names:
            return ContentForm()
        point = self._point(COLD_VALID, self.shots[0])
        entities = point.sample()
        quality = [point.quality(content_score(point.task, form), entities) for form in FORMS]
        return FORMS[int(np.argmax(quality))]

    def _test(self, name: str, scores: Scores, shots: int) -> dict[str, FloatArray]:
        """Metrics of all entities with a row of a test item, NaN for those without a query at this point."""
        point = self._point(COLD_TEST, shots)
        self._test_whole(name, scores, shots)
        return _at(self.entities(), point.entities, point.metrics(scores, point.entities))

    def _test_whole(self, name: str, scores: Scores, shots: int) -> None:
        """Measure a method in lists of the whole catalogue: new items there, and known ones beside them."""
        whole, valid, test = self._whole, self._point(COLD_VALID, shots), self._point(COLD_TEST, shots)
        known_valid, known_test = self._known_rows(WARM_VALID), self._known_rows(WARM_TEST)
        at = valid.entities  # all of them: a loss of one percent is within the noise of a sample
        placement = whole.choose_placement(scores, (known_valid, valid.query), valid.open_for(at), at)
        self.placements.setdefault(name, {})[shots] = placement
        nothing = sp.csr_matrix(known_test.shape), sp.csr_matrix(test.query.shape)
        at = test.entities
        values = whole.metrics(scores, placement, (nothing[0], test.query), test.open_for(at), at)
        self.among_all.setdefault(name, {})[shots] = _at(self.entities(), at, values)
        at = self.known_entities()
        values = whole.metrics(scores, placement, (known_test, nothing[1]), test.open_for(at), at)
        self.known.setdefault(name, {})[shots] = values
        if ALONE not in self.known or shots not in self.known[ALONE]:
            values = whole.metrics(scores, placement, (known_test, nothing[1]), np.zeros_like(test.open_for(at)), at)
            self.known.setdefault(ALONE, {})[shots] = values

    def _known_rows(self, part: int) -> sp.csr_matrix:
        return self.split.matrix(part)[:, self.task.known].tocsr()

    def known_entities(self) -> IntArray:
        """Entities with a held-out row of a known item."""
        rows = self._known_rows(WARM_TEST)
        return np.flatnonzero((np.diff(rows.indptr) > 0) & (np.diff(self.task.history.indptr) > 0))


def _at(entities: IntArray, some: IntArray, metrics: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Spread metrics of some entities over all, NaN for the others."""
    values = {name: np.full(len(entities), np.nan) for name in metrics}
    for name, value in metrics.items():
        values[name][np.searchsorted(entities, some)] = value
    return values
