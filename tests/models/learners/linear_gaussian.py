"""Distance of a learner from the Bayes-optimal predictor, in the world of linear Gaussian tasks."""

from __future__ import annotations

import numpy as np
import torch

from recsys_meta.episodes.collate import episode_batch
from tests.models.learners.cases import generator

LINEAR = {"dims": 4, "item_id": False, "item_bias": False, "objective": "rating", "rate": 0.03, "size_weight": 0.0}
LINEAR |= {"dropout": 0.0, "decay": 0.0}


def mixed_batch(world, index, entities, seed):
    """Supports of 1 to 10 rows."""
    shots = torch.arange(len(entities)) % 10 + 1
    support, query = index.draw(torch.as_tensor(entities), shots, generator=generator(seed))
    return episode_batch(world.data, entities, support, query)


def errors_of(world, learner, params, batch):
    """Squared errors: of the best predictor, of the best that is blind to supports, of the learner, and of the learner
    before it adapts."""
    body, rows, query = learner.body(params), batch.support.rows, batch.query
    given = (rows.item.numpy(), rows.label.numpy(), rows.mask.numpy())

    def error(predicted):
        return float(np.square(np.asarray(predicted) - query.label.numpy())[query.mask.numpy()].mean())

    return (
        error(world.posterior(*given, query.item.numpy())),
        error(world.posterior(*(x[:, :0] for x in given), query.item.numpy())),
        error(learner.score(body, learner.adapt(body, batch.support), query)),
        error(learner.score(body, learner.adapt(body, batch.support.empty()), query)),
    )
