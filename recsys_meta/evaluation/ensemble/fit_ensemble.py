"""Ensemble of a trained learner and tuned baselines: members and weights chosen on meta-validation.

For a ranking by bagged greedy selection (`greedy_selection`), for clicks and ratings by stacking (`stacking`); then
pruned, because each member costs time and memory when it serves.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import Order
from recsys_meta.core.types import FloatArray, IntArray, Params, TaskBatch
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.evaluation.baseline_tuning import TunedBaseline
from recsys_meta.evaluation.ensemble.greedy_selection import prune_members, restrict_weights, select_weights
from recsys_meta.evaluation.ensemble.member_predictions import (
    BaselinePredictions,
    LearnerPredictions,
    MemberPredictions,
)
from recsys_meta.evaluation.ensemble.stacking import RowScores, fit_stacking, prune_stacking
from recsys_meta.evaluation.validation_episodes import (
    ENOUGH_EPISODES,
    affordable,
    draw_episodes,
    sample_entities,
    support_draws,
)
from recsys_meta.models.baselines import PerShotBaseline, make_per_shot
from recsys_meta.models.ensemble import Ensemble, EnsembleConfig, EnsembleMember, make_ensemble
from recsys_meta.models.ensemble.ensemble import member_params
from recsys_meta.models.functional.candidate_scores import (
    CandidateScores,
    candidate_scores,
    concatenate_candidates,
)
from recsys_meta.models.functional.score_forms import RANKING_FORMS
from recsys_meta.models.protocols import Predictor

MAX_ENTITIES = 600
"""Most meta-validation entities that weights are chosen on."""
MAX_TASKS = 128
"""Most episodes of a batch."""
MAX_ROWS = 40_000
"""Most query rows, at each number of shots, that weights of clicks and ratings are chosen on: a member is left out, and
the others are fitted anew, many times, and a dozen weights need no more."""


@dataclass(frozen=True)
class MemberShare:
    """Share of a member: the sum of its weights at each number of shots, 0 everywhere for one that was removed."""

    name: str
    shares: Mapping[int, float]


@dataclass(frozen=True)
class FittedEnsemble:
    """Ensemble, its parameters, the share of every member that was offered, and the seconds that choosing took."""

    predictor: Ensemble
    params: Params
    shares: tuple[MemberShare, ...]
    seconds: float


@dataclass(frozen=True)
class _WeightChoice:
    """Members that stay, and for all of them [K, F] weights and [K] biases at the numbers of shots."""

    shots: tuple[int, ...]
    remaining: list[int]
    weights: FloatArray
    bias: FloatArray | None = None


@torch.no_grad()
def fit_ensemble(
    learner: Predictor,
    params: Params,
    baselines: Mapping[str, TunedBaseline],
    data: Dataset,
    index: EventIndex,
    valid: IntArray,
    *,
    shots: Sequence[int],
    seed: int = 0,
    order: Order | None = None,
) -> FittedEnsemble:
    """Choose members and weights on the meta-validation entities `valid` [V], and build the ensemble.

    Neither the learner's parameters nor the baselines' fits may come from those entities. Raises ConfigError for
    choices, which have no ensemble, and without validation entities that have enough rows.
    """
    start = time.monotonic()
    if data.schema.objective == "choice":
        raise ConfigError("there is no ensemble of predictors of choices; leave [ensemble] out of the recipe")
    is_ranking = data.schema.objective == "ranking"
    entities = sample_entities(valid, affordable(MAX_ENTITIES, data), seed)
    enough = affordable(ENOUGH_EPISODES, data)
    draws = support_draws(index, order or data.schema.order, len(entities), seed, enough)
    members: list[MemberPredictions] = [LearnerPredictions(learner, learner.body(params), is_ranking)]
    members += [BaselinePredictions(tuned, is_ranking) for tuned in baselines.values()]
    episodes = draw_episodes(data, draws, entities, sorted(set(shots)), MAX_TASKS)
    if not episodes:
        raise ConfigError("no meta-validation entity has enough rows to weigh an ensemble's members on")
    choice = _choose_ranking(members, episodes, seed) if is_ranking else _choose_rows(members, episodes, data, seed)
    return _build(learner, params, baselines, choice, data, time.monotonic() - start)


def _choose_ranking(
    members: Sequence[MemberPredictions], episodes: Mapping[int, Sequence[TaskBatch]], seed: int
) -> _WeightChoice:
    scores: dict[int, CandidateScores] = {}
    for k, batches in episodes.items():
        parts = [candidate_scores([m.predict(batch, k) for m in members], batch) for batch in batches]
        scores[k] = concatenate_candidates(parts)
    scores = {k: s for k, s in scores.items() if len(s.relevant)}
    if not scores:
        raise ConfigError("no meta-validation entity has a relevant item to weigh an ensemble's members on")
    count = len(members)
    weights = select_weights(scores, count, seed)
    remaining = prune_members(scores, weights, count)
    # The weights that are left are not chosen anew: on few entities that would fit them to luck.
    return _WeightChoice(tuple(scores), remaining, restrict_weights(weights, remaining, count).numpy())


def _choose_rows(
    members: Sequence[MemberPredictions], episodes: Mapping[int, Sequence[TaskBatch]], data: Dataset, seed: int
) -> _WeightChoice:
    is_click = data.schema.objective == "click"
    scores = {k: _row_scores(members, batches, k, is_click).sample(MAX_ROWS, seed) for k, batches in episodes.items()}
    fitted = fit_stacking(scores)
    remaining = prune_stacking(scores, fitted)
    fitted = fit_stacking(scores, remaining)
    return _WeightChoice(tuple(scores), remaining, fitted.weights, fitted.bias)


def _row_scores(
    members: Sequence[MemberPredictions], batches: Sequence[TaskBatch], shots: int, is_click: bool
) -> RowScores:
    parts = []
    for batch in batches:
        mask = batch.query.mask
        score = torch.stack([m.predict(batch, shots)[mask] for m in members], 1)
        weight = (1 / batch.query.counts.clamp(min=1))[:, None].expand(mask.shape)[mask]
        entity = batch.entity[:, None].expand(mask.shape)[mask]
        parts.append((score, batch.query.label[mask], entity, torch.ones_like(weight) if is_click else weight))
    score, label, entity, weight = (torch.cat(column) for column in zip(*parts, strict=True))
    return RowScores(score.double().numpy(), label.double().numpy(), entity.numpy(), weight.double().numpy(), is_click)


def _build(
    learner: Predictor,
    params: Params,
    baselines: Mapping[str, TunedBaseline],
    choice: _WeightChoice,
    data: Dataset,
    seconds: float,
) -> FittedEnsemble:
    names = [learner.name, *baselines]
    count = len(names)
    share = choice.weights.reshape(len(choice.shots), -1, count).sum(1)
    predictors: list[Predictor] = []
    member_parameters: list[Params] = []
    members: list[EnsembleMember] = []
    for m in choice.remaining:
        if m == 0:
            predictors.append(learner)
            member_parameters.append(params)
            members.append(EnsembleMember(predictor=learner.name, config=learner.config.model_dump(mode="json")))
            continue
        tuned = baselines[names[m]]
        predictor = _drop_idle_settings(tuned.predictor, dict(zip(choice.shots, share[:, m].tolist(), strict=True)))
        predictors.append(predictor)
        member_parameters.append(tuned.params_of(predictor))
        members.append(
            EnsembleMember(predictor=names[m], config=predictor.config.model_dump(mode="json"), per_shot=True)
        )
    forms = RANKING_FORMS if data.schema.objective == "ranking" else 1
    columns = [m + form * count for form in range(forms) for m in choice.remaining]
    config = EnsembleConfig(
        objective=data.schema.objective,
        members=tuple(members),
        shots=choice.shots,
        weights=tuple(tuple(round(float(w), 6) for w in row) for row in choice.weights[:, columns]),
        bias=() if choice.bias is None else tuple(round(float(b), 6) for b in choice.bias),
    )
    shares = tuple(
        MemberShare(name, {k: float(share[i, m]) for i, k in enumerate(choice.shots)}) for m, name in enumerate(names)
    )
    return FittedEnsemble(make_ensemble(config, predictors), member_params(member_parameters), shares, seconds)


def _drop_idle_settings(predictor: PerShotBaseline, share: Mapping[int, float]) -> PerShotBaseline:
    """The tuned baseline without settings of numbers of shots at which it has no share: they take that of the nearest
    one at which it has."""
    active = [k for k in predictor.shots if share.get(k, 0.0) > 0] or list(predictor.shots)
    nearest = [min(active, key=lambda a: abs(np.log1p(a) - np.log1p(k))) for k in predictor.shots]
    choice = [predictor.choice[predictor.shots.index(k)] for k in nearest]
    return make_per_shot(predictor.baseline, predictor.predictors, predictor.shots, choice)
