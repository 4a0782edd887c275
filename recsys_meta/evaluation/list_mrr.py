"""Lists of rows that were shown together, of which one is taken: where in the list a predictor puts it.

Every entity of a list is scored with what was known of it then: the first k of its earlier rows, or where it has
fewer, the largest of the numbers of shots of the schema, and 0, that it has. So a figure does not depend on which other
points are asked for, and every row of a list has a score. The lists of entities that share them must not be split
between training and test (`Schema.together`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import IntArray, Params
from recsys_meta.episodes.collate import episode_batch
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.metrics.pooled_metrics import RowSample
from recsys_meta.models.protocols import Predictor

CHUNK = 256


def list_reciprocal_ranks(
    predictor: Predictor,
    body: Params,
    data: Dataset,
    index: EventIndex,
    entities: IntArray,
    shots: Sequence[int],
    least: int,
) -> dict[int, RowSample]:
    """Reciprocal rank of the taken row in its list, for each number of shots k: over lists that show a newcomer of
    `entities` with at least k earlier rows. Lists without a taken row, or with several, are left out; ties count as
    their mean rank, and a score that is not a number is below all others. The first such newcomer of a list is its
    entity."""
    if index.group is None:
        raise ValueError("the data set has no lists")
    rank = torch.arange(len(index.item)) - index.indptr[index.entity]
    newcomer = torch.zeros(len(index.counts), dtype=torch.bool)
    newcomer[torch.from_numpy(np.asarray(entities))] = True
    lists = torch.unique(index.group[newcomer[index.entity]])
    asked = torch.isin(index.group, lists)
    met = torch.unique(index.entity[asked]).numpy()
    # At 0 every row is scored. A row without a score would have none above it: it would count as the first of its list.
    steps = {0, *data.schema.shots}
    standing = torch.full((len(index.item),), torch.nan)
    found = {}
    for k in sorted(steps | set(shots)):
        if k > max(shots):
            break
        current = standing if k in steps else standing.clone()
        _score(predictor, body, data, index, met[index.counts[torch.from_numpy(met)].numpy() > k], k, current)
        if k not in shots:
            continue
        judged = newcomer[index.entity] & (rank >= max(k, data.schema.query_from))
        judged &= torch.from_numpy(index.has_support(np.arange(len(index.counts)), k, least, data.schema.query_from))[
            index.entity
        ]
        found[k] = _reciprocal(index, current, asked, judged)
    return found


def _score(
    predictor: Predictor, body: Params, data: Dataset, index: EventIndex, entities: IntArray, k: int, current: Tensor
) -> None:
    """Write the scores after k shots over those after fewer, at every row from the k-th on."""
    for start in range(0, len(entities), CHUNK):
        part = entities[start : start + CHUNK]
        chosen = torch.from_numpy(part)
        support, query = index.draw(chosen, torch.full_like(chosen, k))
        batch = episode_batch(data, part, support, query)
        score = predictor.score(body, predictor.adapt(body, batch.support), batch.query)
        assert query.position is not None
        current[query.position[query.mask]] = score[query.mask].float()


def _reciprocal(index: EventIndex, score: Tensor, asked: Tensor, judged: Tensor) -> RowSample:
    assert index.group is not None
    _, place = torch.unique(index.group[asked], return_inverse=True)
    count = int(place.max()) + 1 if len(place) else 0
    value, label = (
        score[asked].nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf),
        index.label[asked] > 0.5,
    )
    taken = torch.zeros(count).index_add(0, place, label.float())
    best = torch.full((count,), -torch.inf).scatter_reduce(0, place[label], value[label], "amax")
    above = torch.zeros(count).index_add(0, place, (value > best[place]).float())
    tied = torch.zeros(count).index_add(0, place, ((value == best[place]) & ~label).float())
    inside = judged[asked]
    last = len(index.counts)
    first = torch.full((count,), last).scatter_reduce(0, place[inside], index.entity[asked][inside], "amin")
    keep = (taken == 1) & (first < last)
    return RowSample(first[keep].numpy(), (1 / (1 + above + tied / 2))[keep].numpy())
