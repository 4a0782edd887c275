"""A pool with rows and members, curricula over it, and a learner's echo that says how hard each meta-batch was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from recsys_meta.training.curricula import CURRICULA, TaskFeedback, TaskPool, make_curriculum
from tests.fixtures.small_datasets import index_of

ENTITIES, ROWS, MEMBERS, TASKS = 30, 12, 4, 5

CONFIGS = [
    ("uniform", {}),
    ("hardness", {}),
    ("hardness", {"longest": 2, "shrink": 3.0}),
    ("hardness", {"keep": 1.0}),
    ("two-level", {}),
    ("two-level", {"keep": 1.0, "members": 1.0}),
    ("self-paced", {}),
    ("self-paced", {"soft": 0.0, "first": 0.1, "until": 1.0}),
    ("paced", {}),
    ("paced", {"of": "hardness", "growth": "linear", "first": 0.2}),
    ("paced", {"of": "two-level", "config": {"members": 0.3}}),
    ("paced", {"of": "self-paced", "until": 1.0}),
    ("progress", {}),
    ("progress", {"explore": 0.0, "sharpness": 4.0}),
]
NAMES = [f"{name}-{i}" for i, (name, _) in enumerate(CONFIGS)]
assert {name for name, _ in CONFIGS} == set(CURRICULA)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pool_of(entities=ENTITIES, tasks=TASKS, steps=400):
    """Entities 0 to n - 1 of an index with twelve rows each, by four members three times."""
    index = index_of([ROWS] * entities)
    index = replace(index, actor=torch.arange(len(index.item)) % MEMBERS)
    return TaskPool(np.arange(entities), tasks, steps, index)


def echo(draw, hardness, rows=None, index_rows=ROWS):
    """What a learner would say: hardness [E] of each task; `rows` [E, ROWS] the error of each of its rows."""
    entities = draw.entities
    rows = np.repeat(np.asarray(hardness, float)[:, None], index_rows, 1) if rows is None else rows
    error = torch.from_numpy(rows[entities])
    position = torch.from_numpy(entities[:, None] * index_rows + np.arange(index_rows))
    return TaskFeedback(entities, error.mean(1).numpy(), error, torch.ones_like(error, dtype=torch.bool), position)


def ready(name, config, pool=None, difficulty=None):
    """A curriculum that has been told the difficulty of its tasks where it asks for it."""
    pool = pool or pool_of()
    curriculum = make_curriculum(name, pool, config)
    if curriculum.needs_difficulty:
        curriculum.set_difficulty(np.arange(len(pool), dtype=float) if difficulty is None else difficulty)
    return curriculum


def rounds(curriculum, count, seed=0, tasks=TASKS, noise=0.0, entities=ENTITIES):
    """Draws of so many rounds of which each is answered: the higher the number of a task, the harder it is."""
    g, rng = generator(seed), np.random.default_rng(seed)
    draws = []
    for _ in range(count):
        draw = curriculum.sample(tasks, g)
        draws.append(draw)
        if curriculum.needs_feedback:
            curriculum.update(echo(draw, np.arange(entities) + noise * rng.normal(size=entities)))
    return draws
