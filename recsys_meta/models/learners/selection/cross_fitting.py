"""Level of a choice of learners: from one learner for all to what the meta-features say, as far as it pays.

The levels of a way are tried in their order. Of each the strength and the length of its fit are those of highest worth
on entities that the fit has not seen (folds of entities), and it is taken if its worth there is higher than that of the
level before it by more than GUARD standard errors over entities. So where nothing is gained the best single learner
stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.types import FloatArray, IntArray
from recsys_meta.models.learners.selection.linear_shares import LinearShares, single_share
from recsys_meta.models.learners.selection.selection_episodes import SelectionEpisodes

FOLDS = 4
GUARD = 1.0
"""Standard errors by which a level has to be better than the one before it."""

Fit = Callable[[SelectionEpisodes, Tensor, float, int], Sequence[LinearShares]]
"""Fit of shares to episodes by the used meta-features [D], a strength of regularisation and a seed: one or more, of
growing length of the fit."""


@dataclass(frozen=True)
class SelectionLevel:
    """Level of a choice: its name, how it is fitted, the meta-features [D] that it reads (1 or 0), and strengths to
    choose from."""

    name: str
    fit: Fit
    used: Tensor
    strengths: tuple[float, ...]


@dataclass(frozen=True)
class FittedShares:
    """Shares, the name of their level, and their gain over the best single learner on entities held out of the fit."""

    shares: LinearShares
    level: str
    gain: float


def fit_best_single(episodes: SelectionEpisodes, used: Tensor, strength: float, seed: int) -> list[LinearShares]:
    """Fit the one learner of highest mean worth; the other arguments have no influence."""
    best = int(episodes.member_values.mean(0).argmax())
    return [single_share(episodes.features.shape[1], episodes.members, best)]


def choose_level(episodes: SelectionEpisodes, levels: Sequence[SelectionLevel], seed: int) -> FittedShares:
    """Choose among levels, of which the first is taken without condition, and fit it to all episodes."""
    folds = _folds(episodes.entity, seed)
    base = chosen = _held_out(episodes, folds, levels[0], seed)
    for level in levels[1:]:
        option = _held_out(episodes, folds, level, seed)
        if _is_clear_gain(option.values - chosen.values, episodes.entity):
            chosen = option
    shares = chosen.level.fit(episodes, chosen.level.used, chosen.strength, seed)[chosen.length]
    return FittedShares(shares, chosen.level.name, float((chosen.values - base.values).mean()))


@dataclass(frozen=True)
class _HeldOut:
    """Level with the strength and the length of its fit that are best on held-out entities, and its worth [N] there."""

    level: SelectionLevel
    strength: float
    length: int
    values: Tensor


def _held_out(episodes: SelectionEpisodes, folds: IntArray, level: SelectionLevel, seed: int) -> _HeldOut:
    options = []
    for strength in level.strengths:
        for length, values in enumerate(_fold_values(episodes, folds, level, strength, seed)):
            options.append(_HeldOut(level, strength, length, values))
    return max(options, key=lambda option: float(option.values.mean()))


def _fold_values(
    episodes: SelectionEpisodes, folds: IntArray, level: SelectionLevel, strength: float, seed: int
) -> Tensor:
    """Worth [L, N] of each of L lengths of the fit, each fold's from a fit without it."""
    result: list[Tensor] = []
    for fold in np.unique(folds).tolist():
        inside, outside = (torch.from_numpy(np.flatnonzero(mask)) for mask in (folds == fold, folds != fold))
        part, rest = episodes.of(inside), episodes.of(outside)
        values = [part.values(s.of(part.features)) for s in level.fit(rest, level.used, strength, seed)]
        result = result or [torch.zeros(len(folds)) for _ in values]
        for whole, own in zip(result, values, strict=True):
            whole[inside] = own
    return torch.stack(result)


def _folds(entity: IntArray, seed: int) -> IntArray:
    """Fold [N] of each episode, all of an entity in the same one."""
    unique, position = np.unique(entity, return_inverse=True)
    fold: IntArray = np.random.default_rng(seed).permutation(len(unique))[position] % min(FOLDS, len(unique))
    return fold


def _is_clear_gain(gain: Tensor, entity: IntArray) -> bool:
    """True for a gain [N] whose mean over entities is above GUARD standard errors."""
    _, position = np.unique(entity, return_inverse=True)
    mean: FloatArray = np.bincount(position, gain.numpy()) / np.bincount(position)
    return len(mean) > 1 and float(mean.mean()) > GUARD * float(mean.std(ddof=1) / len(mean) ** 0.5)
