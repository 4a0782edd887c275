"""A conditional logit of six features, fitted on the choices of past entities, for each support size its own.

log(1 + rows of the item), none of them, log nearness to the last item and to the history, own visits, being the last.
The strongest simple baseline of choices: fitted on episodes, it knows how far to trust a small count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FIRST, IntArray, Interactions, Params, State, Support
from recsys_meta.episodes.collate import episode_batch
from recsys_meta.episodes.event_index import EventIndex, draw_episodes
from recsys_meta.models.baselines.choice.base import ChoiceBaseline
from recsys_meta.models.functional.choice_features import BASIC, basic_features, row_history, support_statistics
from recsys_meta.models.functional.interpolation import support_size_weights

SUPPORT_SIZES = (0, 8, 28, 64, 112, 256, 1024)
"""Support sizes, in rows, that weights are fitted for; between them they are interpolated in log(1 + n)."""
EPISODES_PER_ENTITY = 4
"""Episodes of each entity for a support size."""
QUERY_ROWS = 128
"""Query rows of an episode."""
SAMPLED_ITEMS = 100
"""Sampled items that a choice is fitted against."""
SOLVER_STEPS = 40
"""Of the solver."""


class PooledLogit(ChoiceBaseline):
    """`ridge` holds the weights back, for each row that is fitted."""

    name: ClassVar[str] = "pooled-logit"
    fit_fields: ClassVar[frozenset[str]] = frozenset({"ridge"})
    cold_fields: ClassVar[frozenset[str]] = frozenset({"ridge"})

    ridge: float = Field(default=1e-3, gt=0)

    def search_space(self) -> Mapping[str, tuple[Any, ...]]:
        return {"ridge": (1e-4, 1e-3, 1e-2, 1e-1)}

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        """weight [sizes, 6]. Supports are windows that begin anywhere; a fixed seed makes fits alike."""
        self.check_objective(data)
        index = EventIndex.of(data)
        ids = np.asarray(entities)
        usable = ids[index.counts.numpy()[ids] >= 2]
        if not len(usable):
            raise ConfigError("no training entity has the two interactions that an episode needs")
        generator = torch.Generator().manual_seed(0)
        longest = int(index.counts.numpy()[usable].max())
        choices = [_training_choices(data, index, usable, size, generator) for size in SUPPORT_SIZES if size < longest]
        weight = [_fit_conditional_logit(features, mask, self.ridge) for features, mask in choices]
        # Sizes that no past entity reaches are weighed as the greatest that one does.
        return {"weight": torch.stack(weight + weight[-1:] * (len(SUPPORT_SIZES) - len(weight)))}

    def adapt(self, body: Params, support: Support) -> State:
        state = support_statistics(support)
        return state | {"weight": support_size_weights(state["size"], SUPPORT_SIZES) @ body["weight"]}

    def choose(self, body: Params, state: State, rows: Interactions, candidates: Tensor) -> Tensor:
        return torch.einsum("trkf,tf->trk", basic_features(state, rows, candidates), state["weight"])


def _training_choices(
    data: Dataset, index: EventIndex, entities: IntArray, size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Choices of past entities after supports of a size: features [N, K, 6], the taken item first, and which
    candidates count [N, K]."""
    features, masks = [], []
    by_length = entities[np.argsort(index.counts.numpy()[entities], kind="stable")]  # alike in width: less padding
    for ids in np.array_split(
        np.repeat(by_length, EPISODES_PER_ENTITY), max(1, len(entities) * EPISODES_PER_ENTITY // 16)
    ):
        id_tensor = torch.as_tensor(ids)
        support, query = draw_episodes(
            index, id_tensor, torch.full_like(id_tensor, size), generator=generator, max_query=QUERY_ROWS, window=True
        )
        batch = episode_batch(data, ids, support, query)
        state, rows = support_statistics(batch.support), batch.query
        candidates = _sample_candidates(state, rows, generator)
        mask = state["listed"].gather(1, candidates.flatten(1)).reshape(candidates.shape)
        valid = rows.mask & mask[..., 0]
        features.append(basic_features(state, rows, candidates)[valid])
        masks.append(mask[valid])
    return torch.cat(features), torch.cat(masks)


def _sample_candidates(state: State, rows: Interactions, generator: torch.Generator) -> Tensor:
    """Candidates [T, R, K]: the row's item, its history, and others at random; 0 for what occurs before."""
    items = state["listed"].sum(1)[:, None, None]
    uniform = torch.rand(*rows.item.shape, SAMPLED_ITEMS, generator=generator)
    sample = FIRST + (uniform * items).long().minimum((items - 1).clamp(min=0))
    item, history = rows.item[:, :, None], row_history(rows)
    duplicate = (history[..., :, None] == history[..., None, :]).tril(-1).any(3) | (history == item)
    occupied_slots = torch.cat([item, history], 2)
    collision = (sample[..., :, None] == occupied_slots[..., None, :]).any(3)
    return torch.cat([item, history.masked_fill(duplicate, 0), sample.masked_fill(collision, 0)], 2)


def _fit_conditional_logit(features: Tensor, mask: Tensor, ridge: float) -> Tensor:
    """Weights [F] of a conditional logit. The first candidate of each row was taken."""
    weight = torch.zeros(len(BASIC), requires_grad=True)
    if not len(features):
        return weight.detach()
    solver = torch.optim.LBFGS([weight], max_iter=SOLVER_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        logits = (features @ weight).masked_fill(~mask, -torch.inf)
        value = (torch.logsumexp(logits, 1) - logits[:, 0]).mean() + ridge * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        solver.step(loss)  # type: ignore[no-untyped-call]
    return weight.detach()
