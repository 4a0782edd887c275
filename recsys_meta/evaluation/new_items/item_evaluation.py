"""Evaluation of methods for new items: one curve over the first interactions of new items, entities being known.

Settings and weights are chosen on validation items alone. An entity counts where it took a new item after that item's
support; what it took within the support is no candidate for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import scipy.sparse as sp

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FloatArray, IntArray
from recsys_meta.episodes.item_split import COLD_TEST, COLD_VALID, TRAIN, WARM_TEST, ItemSplit
from recsys_meta.evaluation.curve import ColdStartCurve
from recsys_meta.evaluation.new_items.item_point import BLOCK, ItemPoint
from recsys_meta.evaluation.new_items.whole_catalogue import WholeCatalogue
from recsys_meta.models.functional.item_content import ItemContent
from recsys_meta.models.new_items.catalogue_placement import CataloguePlacement
from recsys_meta.models.new_items.content_form import PLAIN_FORM, ContentForm
from recsys_meta.models.new_items.item_task import ItemTask, Scores
from recsys_meta.models.new_items.methods import ITEM_BASELINES, ItemMethod
from recsys_meta.models.new_items.signal_blend import (
    FORMS,
    blend_signals,
    blended,
    content_score,
    select_weights,
    stack_signals,
)

ALONE = "no-new-items"
"""Name under which the known items' own lists are evaluated."""

MOST_HELD = 1 << 27
"""Scores that are held, at most."""

TRAINED = "once-trained"
"""Name under which a model is evaluated that was trained on the new items."""


@dataclass
class ItemEvaluation:
    """Points of a split at some numbers of shots, and the methods on them.

    `chosen` are settings by method and shots, `placements` where new items then stand among known ones (None: where
    their scores say); `among_all` metrics of new items in lists of the whole catalogue, over `entities()`, `later` the
    same for a part of their rows, and of `TRAINED`, a model that knows the others; `known` metrics of known items
    beside new ones, over `known_entities()`, of `ALONE` without any, and of `TRAINED` beside trained ones.
    """

    data: Dataset
    split: ItemSplit
    shots: Sequence[int]
    chosen: dict[str, dict[int, Mapping[str, Any]]] = field(default_factory=dict)
    placements: dict[str, dict[int, CataloguePlacement | None]] = field(default_factory=dict)
    among_all: dict[str, dict[int, dict[str, FloatArray]]] = field(default_factory=dict)
    later: dict[str, dict[int, dict[str, FloatArray]]] = field(default_factory=dict)
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
        self._whole = WholeCatalogue(self.split, self.task)

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

    @property
    def whole(self) -> WholeCatalogue:
        """Ranking of the whole catalogue."""
        return self._whole

    def validation_point(self, shots: int) -> ItemPoint:
        """The point of validation items with some first rows each."""
        return self._point(COLD_VALID, shots)

    def placed(self, name: str, build: Callable[[ItemTask], Scores]) -> ColdStartCurve:
        """Curve of a method whose scores say where new items stand among known ones, in the units of
        `WholeCatalogue.known_scores`."""
        values = {}
        for k in self.shots:
            scores = build(self._point(COLD_TEST, k).task)
            self.chosen.setdefault(name, {})[k] = {}
            values[k] = self._test(name, scores, k, is_placed=True)
        return ColdStartCurve(name, self.entities(), values)

    def _choose_form(self) -> ContentForm:
        if not self.task.content.names:
            return PLAIN_FORM
        point = self._point(COLD_VALID, self.shots[0])
        entities = point.sample()
        quality = [point.quality(content_score(point.task, form), entities) for form in FORMS]
        return FORMS[int(np.argmax(quality))]

    def _test(self, name: str, scores: Scores, shots: int, is_placed: bool = False) -> dict[str, FloatArray]:
        """Metrics of all entities with a row of a test item, NaN for those without a query at this point."""
        point = self._point(COLD_TEST, shots)
        scores = self._hold(scores)
        self._test_whole(name, scores, shots, is_placed)
        return _at(self.entities(), point.entities, point.metrics(scores, point.entities))

    def _hold(self, scores: Scores) -> Scores:
        """Compute the scores of all entities at once where these are few enough: they are read several times."""
        entities = self._whole.entities
        if len(entities) * len(self.task.new) > MOST_HELD:
            return scores
        blocks = [scores(entities[start : start + BLOCK]) for start in range(0, len(entities), BLOCK)]
        table = np.concatenate([np.asarray(block, np.float32) for block in blocks])
        return lambda some: np.asarray(table[np.searchsorted(entities, some)])

    def _test_whole(self, name: str, scores: Scores, shots: int, is_placed: bool = False) -> None:
        """Measure a method in lists of the whole catalogue: new items there, and known ones beside them."""
        whole = self._whole
        valid, test = self._point(COLD_VALID, shots), self._point(COLD_TEST, shots)
        result = whole.measure(scores, valid, test, shots, is_placed)
        self.placements.setdefault(name, {})[shots] = result.placement
        new, known = (np.searchsorted(whole.entities, at) for at in (self.entities(), self.known_entities()))
        measured = (
            (self.among_all, name, result.new, new),
            (self.later, name, result.later, new),
            (self.later, TRAINED, result.trained, new),
            (self.known, name, result.known, known),
            (self.known, ALONE, whole.known.metrics(), known),
            (self.known, TRAINED, result.known_trained, known),
        )
        for metrics, method, values, position in measured:
            metrics.setdefault(method, {})[shots] = {metric: value[position] for metric, value in values.items()}

    def known_entities(self) -> IntArray:
        """Entities with a held-out row of a known item."""
        rows = self.split.matrix(WARM_TEST)
        return np.flatnonzero((np.diff(rows.indptr) > 0) & (np.diff(self.task.history.indptr) > 0))


def _at(entities: IntArray, some: IntArray, metrics: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Spread metrics of some entities over all, NaN for the others."""
    values = {name: np.full(len(entities), np.nan) for name in metrics}
    for name, value in metrics.items():
        values[name][np.searchsorted(entities, some)] = value
    return values
