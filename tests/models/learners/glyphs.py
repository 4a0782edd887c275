"""Glyph-like tasks: classes of drawings, which a learner has to tell apart from one or five of each.

A class is a few strokes on a small grid; each drawing moves their ends a little, and lies beside a scribble that says
nothing, so that likeness in itself does not tell classes apart. An entity is a class and its rows are its drawings,
known by their inked cells. N-way K-shot: K drawings of each of N new classes are supports, and another drawing belongs
to the class that gives it the most probability.
"""

from __future__ import annotations

import numpy as np
import torch

from recsys_meta.core.types import FIRST
from recsys_meta.episodes.collate import episode_batch
from tests.fixtures.simulated_datasets import dataset

GRID, STROKES, SCRIBBLES, WAYS = 9, 4, 8, 5


def glyph_world(classes=150, drawings=16, seed=0):
    """Data set of the objective "ranking" in which each class has drawings of its own."""
    rng = np.random.default_rng(seed)
    ends = rng.uniform(0, GRID - 1, (classes, 1, STROKES, 2, 2))
    inked = _draw(ends + rng.normal(0, 0.45, (classes, drawings, STROKES, 2, 2)))
    scribble = _draw(rng.uniform(0, GRID - 1, (classes, drawings, SCRIBBLES, 2, 2)))
    both = np.concatenate([inked, scribble], -1).reshape(classes * drawings, -1)
    cells = [np.flatnonzero(one) for one in both]
    item = np.arange(classes * drawings).reshape(classes, drawings)
    return dataset("glyphs", "ranking", list(item), [np.ones(drawings)] * classes, item_features=(("cells", cells),))


def _draw(ends):
    """Inked cells [..., GRID * GRID] of strokes between ends [..., STROKES, 2, 2]."""
    along = np.linspace(0, 1, 2 * GRID)[:, None]
    points = ends[..., 0, None, :] * (1 - along) + ends[..., 1, None, :] * along
    x, y = np.moveaxis(points.round().clip(0, GRID - 1).astype(int), -1, 0)
    shape = x.shape[:-2]
    cell = (x * GRID + y).reshape(*shape, -1)
    inked = np.zeros((*shape, GRID * GRID), bool)
    np.put_along_axis(inked, cell, True, -1)
    return inked


def accuracy(learner, params, data, index, classes, shots):
    """Share of drawings that are given to their class, of WAYS classes with `shots` drawings of each."""
    classes = torch.as_tensor(classes)[: len(classes) // WAYS * WAYS]
    sizes = torch.full((len(classes),), shots)
    support, query = index.draw(classes, sizes, generator=torch.Generator().manual_seed(1))
    batch = episode_batch(data, classes.numpy(), support, query)
    with torch.no_grad():
        body = learner.body(params)
        scores = learner.rank(body, learner.adapt(body, batch.support))
    scores[:, :FIRST] = -torch.inf
    log_p = torch.log_softmax(scores, 1).view(-1, WAYS, scores.shape[1])
    item = batch.query.item.view(len(log_p), WAYS, 1, -1)
    of_class = log_p[:, None].expand(-1, WAYS, -1, -1).gather(3, item.expand(-1, -1, WAYS, -1))
    is_own = of_class.argmax(2) == torch.arange(WAYS)[None, :, None]
    return float(is_own[batch.query.mask.view(is_own.shape)].float().mean())
