"""The way in which servers place new items, on a task of the evaluation: `served` of `compare --scenario items`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.feature_tensors import lookup_rows
from recsys_meta.core.types import FIRST, FloatArray, IntArray
from recsys_meta.evaluation.new_items.whole_catalogue import WholeCatalogue
from recsys_meta.inference.new_items.content_columns import ContentColumns
from recsys_meta.inference.new_items.item_placer import MOST_COLUMNS, MOST_TASTES, PLACES
from recsys_meta.inference.new_items.new_item_block import MOST_GUIDES, NewItemBlock, build_block
from recsys_meta.inference.new_items.probe_entities import MOST_PROBES
from recsys_meta.inference.new_items.score_projection import ScoreProjection, fit_projection
from recsys_meta.inference.new_items.stored_items import ItemEvidence
from recsys_meta.models.new_items.item_task import ItemTask, Scores


class ServedPlacement:
    """Places new items of a data set as a server would whose model ranks known items as the evaluation does."""

    def __init__(self, data: Dataset) -> None:
        self._data = data
        self._fitted: tuple[ScoreProjection, Tensor] | None = None

    def build(self, task: ItemTask, whole: WholeCatalogue) -> Scores:
        """Make scores of a task's new items, in the units of `WholeCatalogue.known_scores`."""
        if self._fitted is None:
            self._fitted = self._fit(task, whole)
        projection, content = self._fitted
        names = [str(item) for item in task.new]
        block = build_block(projection, names, content, _evidence(task, projection, whole.known_scores))

        def scores(users: IntArray) -> FloatArray:
            known, _ = whole.known_scores(users)
            return np.asarray(_extend(block, known).numpy())

        return scores

    def _fit(self, task: ItemTask, whole: WholeCatalogue) -> tuple[ScoreProjection, Tensor]:
        """Fit the projection to probe entities of one event; return it and the new items' content [N, K]."""
        known, new = (lookup_rows(self._data.items, items) for items in (_padded(task.known), task.new))
        columns = ContentColumns.fit(known, MOST_COLUMNS)
        content = columns.encode({name: values[FIRST:] for name, values in known.items()}, len(task.known))
        counts = np.bincount(task.history.indices, minlength=len(task.known))
        chance = np.sqrt(counts) / np.sqrt(counts).sum()
        probes = np.random.default_rng(0).choice(len(counts), min(MOST_PROBES, (counts > 0).sum()), False, chance)
        scores = _padded_scores(whole.scores_after(probes))
        popularity = _padded_scores(counts[None].astype(np.float32))[0]
        projection = fit_projection(scores, content, popularity, MOST_TASTES, PLACES)
        return projection, columns.encode(new, len(task.new))


def _padded(items: IntArray) -> IntArray:
    return np.concatenate([np.zeros(FIRST, np.int64), items])


def _padded_scores(scores: FloatArray) -> Tensor:
    return torch.nn.functional.pad(torch.from_numpy(np.ascontiguousarray(scores, np.float32)), (FIRST, 0))


def _extend(block: NewItemBlock, known: FloatArray) -> Tensor:
    return block.extend(_padded_scores(known))[:, -len(block.names) :]


def _evidence(
    task: ItemTask, projection: ScoreProjection, known_scores: Callable[[IntArray], tuple[FloatArray, object]]
) -> dict[str, ItemEvidence]:
    """First events of the new items, by their position in the task."""
    first = task.support.T.tocsr()
    users = np.unique(task.support.tocoo().row)
    if not len(users):
        return {}
    tastes = projection.tastes(_padded_scores(known_scores(users)[0]))
    traffic = float(task.shots.mean()) * len(task.known) / max(task.history.nnz, 1)
    evidence = {}
    for position in np.flatnonzero(task.shots):
        liked = first.indices[first.indptr[position] : first.indptr[position + 1]]
        some = tastes[torch.from_numpy(np.searchsorted(users, liked[:MOST_GUIDES]))]
        evidence[str(task.new[position])] = ItemEvidence(len(liked), traffic, some)
    return evidence
