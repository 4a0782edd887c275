"""Case of a learner: fresh parameters on a small world of its objective, and one meta-batch; the smallest training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import IntArray, Interactions, Params, Support, TaskBatch
from recsys_meta.episodes.collate import episode_batch
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.splits import EntitySplit, split_by_seed
from recsys_meta.evaluation.conformance.simulated_worlds import city_world, ranking_world, rating_world
from recsys_meta.models.protocols import Learner
from recsys_meta.training.recipe import recipe_of
from recsys_meta.training.trainer import fit, start_training

WORLDS: Mapping[str, Callable[[], Dataset]] = {
    "ranking": ranking_world,
    "rating": rating_world,
    "click": lambda: rating_world(objective="click"),
    "choice": lambda: city_world(entities=16, items=24, actors=20, rows=8),
}
"""World of each objective."""


@dataclass(frozen=True)
class LearnerCase:
    """Learner with fresh parameters on a world of its objective, and one meta-batch of 12 tasks with 0 to 6 rows."""

    learner: Learner
    params: Params
    data: Dataset
    index: EventIndex
    split: EntitySplit
    batch: TaskBatch
    training_state: Any

    def loss(
        self, params: Params, batch: TaskBatch | None = None, seed: int = 0
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Meta-loss of a batch, by default the case's own."""
        return self.learner.meta_loss(params, batch or self.batch, self.training_state, generator(seed))

    def answers(self, body: Params, support: Support, query: Interactions) -> tuple[Tensor, Tensor, Tensor]:
        """Everything that a caller can see of adapted entities: scores of rows, of the catalogue, and the loss."""
        state = self.learner.adapt(body, support)
        return (
            self.learner.score(body, state, query),
            self.learner.rank(body, state),
            self.learner.support_loss(body, state, support),
        )


def make_learner_case(learner: Learner, data: Dataset) -> LearnerCase:
    """Build the case of a learner on a data set."""
    index = EventIndex.of(data)
    split = split_by_seed(index.entities_with(2), 0)
    params = learner.init(data, split.train, generator(1))
    training_state = learner.training_state(data, split.train, generator(2))
    return LearnerCase(learner, params, data, index, split, draw_batch(data, index, split.train[:12]), training_state)


def generator(seed: int = 0) -> torch.Generator:
    """Generator with a seed."""
    return torch.Generator().manual_seed(seed)


def draw_batch(data: Dataset, index: EventIndex, entities: IntArray, most: int = 6, seed: int = 3) -> TaskBatch:
    """Draw a batch of episodes whose supports have 0 to `most` rows."""
    shots = torch.arange(len(entities)) % (most + 1)
    support, query = index.draw(torch.as_tensor(entities), shots, generator=generator(seed))
    return episode_batch(data, entities, support, query)


def train_briefly(
    learner: Learner,
    data: Dataset,
    *,
    seed: int = 0,
    epochs: int = 15,
    tasks: int = 32,
    rate: float = 1e-2,
    max_shots: int = 10,
    empty: float = 0.1,
) -> tuple[Params, EventIndex, EntitySplit, float]:
    """Train without early stop; return parameters, index, split and the mean loss of the last epoch."""
    index = EventIndex.of(data)
    split = split_by_seed(index.entities_with(2), seed)
    recipe = recipe_of(
        {
            "name": "conformance",
            "learner": learner.name,
            "episodes": {"max_shots": max_shots, "empty": empty},
            "train": {"tasks": tasks, "epochs": epochs, "rate": rate, "schedule": "cosine", "patience": 10**6},
        }
    )
    run = start_training(learner, recipe, data, index, split.train, seed)
    losses = [step.loss for step in fit(run, lambda _: 0.0)]
    params = {k: v.detach() for k, v in run.params.items()}
    return params, index, split, sum(losses[-run.epoch_steps :]) / run.epoch_steps


def copy_tensors(tensors: Mapping[str, Tensor]) -> Params:
    """Return deep copies without a graph, which may be trained."""
    return {k: v.detach().clone() for k, v in tensors.items()}


def trainable_copies(learner: Learner, params: Params) -> Params:
    """Return copies of the parameters, those that train asking for gradients."""
    return {k: v if learner.is_frozen(k) else v.requires_grad_() for k, v in copy_tensors(params).items()}


def without_context(rows: Interactions) -> Interactions:
    """Return the same rows of actors of whom nothing is known, in no context: what a ranking answers."""
    nothing = {k: torch.full_like(v, torch.nan) if v.is_floating_point() else v * 0 for k, v in rows.context.items()}
    return replace(rows, context=nothing, history=None if rows.history is None else rows.history * 0)
