"""Mean reciprocal rank within lists: rows that were shown together and of which one is positive.

Every entity of a list is scored with a support of the first k of its earlier rows, or where it has fewer, with the
largest of 0 and the schema's numbers of shots that it has. So a value does not depend on the other points of the curve,
and every row of a list has a score. Entities that share a list must not be split between training and test
(`Schema.together`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import IntArray, Params
from recsys_meta.episodes.collate import episode_batch
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.evaluation.row_scores import MOST_ROWS, row_scores
from recsys_meta.metrics.pooled_metrics import RowSample
from recsys_meta.models.protocols import Predictor


def list_reciprocal_ranks(
    predictor: Predictor,
    body: Params,
    data: Dataset,
    index: EventIndex,
    entities: IntArray,
    shots: Sequence[int],
    least: int,
) -> dict[int, RowSample]:
    """Reciprocal rank of the positive row in its list for each number of shots k.

    Over the lists that hold an entity of `entities` with at least k earlier rows and `least` query rows; the first such
    entity of a list is the list's entity in the sample. Lists without a positive row, or with several, are left out.
    Ties count as their mean rank; a score that is not a number ranks below all others. Raises ValueError if the rows
    have no lists.
    """
    if index.group is None:
        raise ValueError("the data set has no lists")
    rank = torch.arange(len(index.item)) - index.indptr[index.entity]
    is_test_entity = torch.zeros(len(index.counts), dtype=torch.bool)
    is_test_entity[torch.from_numpy(np.asarray(entities))] = True
    lists = torch.unique(index.group[is_test_entity[index.entity]])
    in_lists = torch.isin(index.group, lists)
    list_entities = torch.unique(index.entity[in_lists]).numpy()
    # At 0 shots every row is scored: a row without a score would have none above it and count as the first of its list.
    steps = {0, *data.schema.shots}
    base_scores = torch.full((len(index.item),), torch.nan)
    samples = {}
    for k in sorted(steps | set(shots)):
        if k > max(shots):
            break
        scores = base_scores if k in steps else base_scores.clone()
        _score(
            predictor,
            body,
            data,
            index,
            list_entities[index.counts[torch.from_numpy(list_entities)].numpy() > k],
            k,
            scores,
        )
        if k not in shots:
            continue
        is_measured = is_test_entity[index.entity] & (rank >= max(k, data.schema.query_from))
        is_measured &= torch.from_numpy(
            index.has_support(np.arange(len(index.counts)), k, least, data.schema.query_from)
        )[index.entity]
        samples[k] = _reciprocal(index, scores, in_lists, is_measured)
    return samples


def _score(
    predictor: Predictor, body: Params, data: Dataset, index: EventIndex, entities: IntArray, k: int, scores: Tensor
) -> None:
    """Overwrite `scores` [N] with those after k shots, at every row from the k-th on of each entity."""
    for part in _even_parts(entities, index.counts[torch.from_numpy(entities)].numpy() - k):
        ids = torch.from_numpy(part)
        support, query = index.draw(ids, torch.full_like(ids, k))
        batch = episode_batch(data, part, support, query)
        score = row_scores(predictor, body, predictor.adapt(body, batch.support), batch.query)
        assert query.position is not None
        scores[query.position[query.mask]] = score[query.mask].float()


def _even_parts(entities: IntArray, counts: IntArray) -> Iterator[IntArray]:
    """Yield parts of the entities of about as many rows each, so that there is little padding: MOST_ROWS with it, or
    one entity of more."""
    entities, counts = (values[np.argsort(counts, kind="stable")] for values in (entities, counts))
    start = 0
    while start < len(entities):
        # Counts rise, so the number of rows with padding is the last count times the number of entities.
        cells = counts[start:] * np.arange(1, len(counts) - start + 1)
        end = start + max(1, int(np.searchsorted(cells, MOST_ROWS, side="right")))
        yield entities[start:end]
        start = end


def _reciprocal(index: EventIndex, score: Tensor, in_lists: Tensor, is_measured: Tensor) -> RowSample:
    assert index.group is not None
    _, list_id = torch.unique(index.group[in_lists], return_inverse=True)
    count = int(list_id.max()) + 1 if len(list_id) else 0
    value, label = (
        score[in_lists].nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf),
        index.label[in_lists] > 0.5,
    )
    positives = torch.zeros(count).index_add(0, list_id, label.float())
    best = torch.full((count,), -torch.inf).scatter_reduce(0, list_id[label], value[label], "amax")
    above = torch.zeros(count).index_add(0, list_id, (value > best[list_id]).float())
    ties = torch.zeros(count).index_add(0, list_id, ((value == best[list_id]) & ~label).float())
    inside = is_measured[in_lists]
    last = len(index.counts)
    first = torch.full((count,), last).scatter_reduce(0, list_id[inside], index.entity[in_lists][inside], "amin")
    keep = (positives == 1) & (first < last)
    return RowSample(first[keep].numpy(), (1 / (1 + above + ties / 2))[keep].numpy())
