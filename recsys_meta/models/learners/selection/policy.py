"""Policies that pick one learner for each task, linear in its meta-features.

*Q-values*: the worth of each learner on the query, less the mean over learners, is regressed on the meta-features
(ridge), and the learner of the highest prediction is taken: fitted Q iteration (Ernst, Geurts and Wehenkel 2005) with
one decision, that is, a contextual bandit whose rewards are all known. *Evolution*: the worth of what is picked has no
useful gradient, so that an evolution strategy climbs it (Salimans et al. 2017): a population around the policy, in
mirrored pairs, weighed by rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys_meta.models.learners.selection.linear_shares import LinearShares
from recsys_meta.models.learners.selection.selection_episodes import SelectionEpisodes

GENERATIONS = (10, 20, 40)
"""Generations after which an evolved policy is kept."""
PAIRS, DEVIATION, RATE = 16, 0.3, 0.3
"""Mirrored pairs of a population, deviation of their noise, and length of a step."""


def fit_q_values(episodes: SelectionEpisodes, used: Tensor, strength: float, seed: int) -> list[LinearShares]:
    """Fit the Q-values' policy; `strength` is that of the ridge, in shares of the episodes. `seed` has no influence."""
    x, values = episodes.features * used, episodes.member_values
    target = values - values.mean(1, keepdim=True)
    mean, centre = target.mean(0), x.mean(0)
    gram = (x - centre).T @ (x - centre) / len(x) + strength * torch.eye(x.shape[1])
    weight = torch.linalg.solve(gram, (x - centre).T @ (target - mean) / len(x)) * used[:, None]
    return [LinearShares(weight, mean - centre @ weight, torch.ones(1))]


def fit_evolution(episodes: SelectionEpisodes, used: Tensor, strength: float, seed: int) -> list[LinearShares]:
    """Evolve policies, one for each of GENERATIONS; each step shrinks the weights by `strength` of them."""
    generator = torch.Generator().manual_seed(seed)
    x, values = episodes.features * used, episodes.member_values
    design = torch.cat([x, torch.ones(len(x), 1)], 1)
    rows = torch.cat([used, torch.ones(1)])[:, None]
    policy = torch.zeros(design.shape[1], values.shape[1])
    policy[-1, values.mean(0).argmax()] = DEVIATION
    kept = []
    for generation in range(1, max(GENERATIONS) + 1):
        noise = torch.randn(PAIRS, *policy.shape, generator=generator) * rows
        noise = torch.cat([noise, -noise])
        fitness = _mean_worth(design, values, policy + DEVIATION * noise)
        rank = fitness.argsort().argsort().float() / (len(fitness) - 1) - 0.5
        step = torch.einsum("p,pdm->dm", rank, noise) / (len(noise) * DEVIATION)
        policy = policy + RATE * step
        policy[:-1] *= 1 - strength
        if generation in GENERATIONS:
            kept.append(LinearShares(policy[:-1].clone(), policy[-1].clone(), torch.ones(1)))
    return kept


def _mean_worth(design: Tensor, values: Tensor, policies: Tensor) -> Tensor:
    """Mean worth [P] of what each of P policies [P, D + 1, M] picks, of values [N, M]."""
    picks = torch.einsum("nd,pdm->pnm", design, policies).argmax(2)
    return values.gather(1, picks.T).mean(0)
