"""Conditional logit of six features, pooled over the choices of past entities, with weights for each support size.

The features are log(1 + rows of the item), an indicator of no rows, log nearness to the last item and to the history,
log(1 + visits of the actor) and an indicator of the last item. The strongest simple baseline of choices: it is fitted
on episodes, so that the weight of a count suits the size of the support that it comes from.
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
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.models.baselines.choice.base import ChoiceBaseline
from recsys_meta.models.functional.catalogue_features import basic_columns
from recsys_meta.models.functional.choice_features import row_history, support_statistics
from recsys_meta.models.functional.interpolation import support_size_weights

SUPPORT_SIZES = (0, 8, 28, 64, 112, 256, 1024)
"""Support sizes, in rows, that weights are fitted for; between them weights are interpolated in log(1 + n)."""
EPISODES_PER_ENTITY = 4
"""Episodes drawn from each entity for each support size."""
QUERY_ROWS = 128
"""Most query rows of an episode."""
SAMPLED_ITEMS = 100
"""Random items of the catalogue among the candidates of a choice; the history and the chosen item are the others."""
SOLVER_STEPS, TOLERANCE = 40, 1e-10
"""Most steps of Newton's method, and twice the gain in the loss below which it ends."""
STEP_SHARES = tuple(0.5**n for n in range(10))
"""Shares of a step, of which the first is taken that lowers the loss."""


class PooledLogit(ChoiceBaseline):
    """Conditional logit; `ridge` times the squared weights is added to the mean loss of a row."""

    name: ClassVar[str] = "pooled-logit"
    fit_fields: ClassVar[frozenset[str]] = frozenset({"ridge"})
    cold_fields: ClassVar[frozenset[str]] = frozenset({"ridge"})

    ridge: float = Field(default=1e-3, gt=0)

    def search_space(self) -> Mapping[str, tuple[Any, ...]]:
        return {"ridge": (1e-4, 1e-3, 1e-2, 1e-1)}

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        """Fit "weight" [sizes, 6] on episodes whose supports are windows at random positions, from a fixed seed.

        Raises ConfigError for another objective, or if no entity has two interactions.
        """
        self.check_objective(data)
        index = EventIndex.of(data)
        ids = np.asarray(entities)
        eligible = ids[index.counts.numpy()[ids] >= 2]
        if not len(eligible):
            raise ConfigError("no training entity has the two interactions that an episode needs")
        generator = torch.Generator().manual_seed(0)
        longest = int(index.counts.numpy()[eligible].max())
        choices = [
            _training_choices(data, index, eligible, size, generator) for size in SUPPORT_SIZES if size < longest
        ]
        weight = [_fit_conditional_logit(features, mask, self.ridge) for features, mask in choices]
        # Sizes that no training entity reaches have the weights of the largest size that one does.
        return {"weight": torch.stack(weight + weight[-1:] * (len(SUPPORT_SIZES) - len(weight)))}

    def adapt(self, body: Params, support: Support) -> State:
        state = support_statistics(support)
        return state | {"weight": support_size_weights(state["size"], SUPPORT_SIZES) @ body["weight"]}

    def choose(self, body: Params, state: State, rows: Interactions, candidates: Tensor) -> Tensor:
        return torch.einsum("trkf,tf->trk", basic_columns(state, rows, candidates), state["weight"])


def _training_choices(
    data: Dataset, index: EventIndex, entities: IntArray, size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw choices of past entities after supports of `size` rows.

    Returns features [N, K, 6] of the candidates, the chosen item first, and the mask [N, K] of real candidates.
    """
    features, masks = [], []
    # Entities of similar length share a batch: less padding.
    by_length = entities[np.argsort(index.counts.numpy()[entities], kind="stable")]
    for ids in np.array_split(
        np.repeat(by_length, EPISODES_PER_ENTITY), max(1, len(entities) * EPISODES_PER_ENTITY // 16)
    ):
        id_tensor = torch.as_tensor(ids)
        support, query = index.draw(
            id_tensor, torch.full_like(id_tensor, size), generator=generator, max_query=QUERY_ROWS, window=True
        )
        batch = episode_batch(data, ids, support, query)
        state, rows = support_statistics(batch.support), batch.query
        candidates = _sample_candidates(state, rows, generator)
        mask = state["listed"].gather(1, candidates.flatten(1)).reshape(candidates.shape)
        valid = rows.mask & mask[..., 0]
        features.append(basic_columns(state, rows, candidates)[valid])
        masks.append(mask[valid])
    return torch.cat(features), torch.cat(masks)


def _sample_candidates(state: State, rows: Interactions, generator: torch.Generator) -> Tensor:
    """Return candidates [T, R, K]: the row's item, its history, and random items; 0 in place of duplicates."""
    items = state["listed"].sum(1)[:, None, None]
    uniform = torch.rand(*rows.item.shape, SAMPLED_ITEMS, generator=generator)
    sample = FIRST + (uniform * items).long().minimum((items - 1).clamp(min=0))
    item, history = rows.item[:, :, None], row_history(rows)
    duplicate = (history[..., :, None] == history[..., None, :]).tril(-1).any(3) | (history == item)
    distinct = torch.cat([item, history], 2)
    collision = (sample[..., :, None] == distinct[..., None, :]).any(3)
    return torch.cat([item, history.masked_fill(duplicate, 0), sample.masked_fill(collision, 0)], 2)


def _fit_conditional_logit(features: Tensor, mask: Tensor, ridge: float) -> Tensor:
    """Fit the weights [F] of a conditional logit on features [N, K, F] whose first candidate is the chosen one, by
    Newton's method: the loss is convex and has a handful of weights, so that each step pays for its second moments.

    mask [N, K]: the real candidates. Zero weights without rows.
    """
    weight = torch.zeros(features.shape[2])
    if not len(features):
        return weight
    x = features.flatten(0, 1)
    loss, probability = _choice_loss(features, mask, weight, ridge)
    for _ in range(SOLVER_STEPS):
        expected = (probability[:, None] @ features)[:, 0]
        gradient = (expected - features[:, 0]).mean(0) + 2 * ridge * weight
        second = ((x * probability.flatten()[:, None]).T @ x - expected.T @ expected) / len(features)
        step = torch.linalg.solve((second + 2 * ridge * torch.eye(len(weight))).double(), gradient.double()).float()
        if float(gradient @ step) < TOLERANCE:
            break
        for share in STEP_SHARES:  # a full step may go too far where probabilities are near 0 or 1
            trial = weight - share * step
            trial_loss, trial_probability = _choice_loss(features, mask, trial, ridge)
            if trial_loss < loss:
                break
        else:
            break
        weight, loss, probability = trial, trial_loss, trial_probability
    return weight


def _choice_loss(features: Tensor, mask: Tensor, weight: Tensor, ridge: float) -> tuple[float, Tensor]:
    """Mean negative log-probability of the first candidates, with `ridge` times the squared weights, and the
    probabilities [N, K] of all candidates."""
    log_p = torch.log_softmax((features @ weight).masked_fill(~mask, -torch.inf), 1)
    return float(-log_p[:, 0].double().mean()) + ridge * float(weight.square().sum()), log_p.exp()
