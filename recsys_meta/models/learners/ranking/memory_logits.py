"""Logits of the memories: the evidence of past entities for each item of the catalogue, given a support."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys_meta.core.types import Interactions, Params, State
from recsys_meta.models.functional.gaussian_posterior import gaussian_posterior
from recsys_meta.models.learners.ranking.flagship_config import FlagshipConfig
from recsys_meta.models.learners.ranking.item_memories import memory_scores
from recsys_meta.models.learners.ranking.memory_gates import MemoryKind

SMOOTHING = 0.01
"""Events added to every item in every bin of arrivals."""
MOST_PRIOR, MOST_ZEROS = 0.1, 0.01
"""Bounds of the posterior's constants, which grow with the support."""


def memory_logits(config: FlagshipConfig, body: Params, kind: MemoryKind, state: State, scale: Tensor) -> Tensor:
    """Logits [T, C] of a memory of the catalogue, in units of its scale.

    The state has item [T, S] and, for "recent", arrival [T, B]; the body the memory under "memory.<kind>.".
    """
    if kind == "recent":
        return torch.log(state["arrival"] @ body["memory.recent.counts"] + SMOOTHING) / scale
    rows = Interactions(state["item"], state["item"].float(), state["item"] > 0)
    table = {k.rsplit(".", 1)[1]: v for k, v in body.items() if k.startswith(f"memory.{kind}.")}
    if kind == "posterior":
        return posterior_weights(config, table, rows) @ table["items"].T / scale
    scores = memory_scores(table, rows, body["vectors"].shape[1]) / scale
    return torch.log1p(scores) if kind == "cosine" else scores


def posterior_weights(config: FlagshipConfig, table: Params, rows: Interactions) -> Tensor:
    """Posterior mean [T, D] of an entity's weights in the subspace of `gaussian_memory`.

    Prior and zeros count in proportion to the support, up to a bound, so that they keep their say in a large one.
    """
    weight = rows.mask.to(table["items"].dtype)
    size = weight.sum(1)[:, None, None]
    prior = (config.trust * size).clamp(min=config.trust, max=MOST_PRIOR)
    zeros = (config.zeros * size).clamp(max=MOST_ZEROS)
    vectors = table["items"][rows.item]
    return gaussian_posterior(table, vectors, weight, gain=1.0, target=1.0, zeros=zeros, prior=prior)
