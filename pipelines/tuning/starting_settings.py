"""Settings that a study tries first: those of the recipe, and the best of earlier studies on data that look alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from pipelines.tuning.dataset_meta_features import distance
from pipelines.tuning.recipe_keys import recipe_keys
from pipelines.tuning.search_space import SearchSpace
from recsys_meta.core.errors import ConfigError
from recsys_meta.store.tracking.tables import TuningTrialRecord
from recsys_meta.store.tracking.tuning import ABANDONED, TrialProposal, best_trial, studies_of_learner, study_trials
from recsys_meta.training.recipe import Recipe, recipe_of

MOST_SIMILAR = 3
"""Earlier studies whose best settings are tried."""
MOST_DISTANCE = 1.5
"""Distance of meta-features beyond which data sets do not look alike: counts that differ by a factor of e^1.5."""
MOST_LOSSES = 2
"""Workers that settings may cost before they are no longer tried again: they may be what kills them."""


@dataclass(frozen=True)
class SimilarStudy:
    """Earlier study on data that look alike, its distance, and its best settings."""

    name: str
    dataset: str
    distance: float
    params: Mapping[str, Any]


def recipe_settings(recipe: Recipe, space: SearchSpace) -> list[TrialProposal]:
    """Settings of the recipe itself, and those of its race over keys of the space, each moved into the space."""
    values = {key.name: key.value for key in recipe_keys(recipe).values()}
    raced = [{f"config.{k}": v for k, v in setting.items()} for setting in recipe.race.settings]
    raced = [setting for setting in raced if setting.keys() & space.choices.keys()]
    proposals = [TrialProposal(space.nearest(values | setting), "race") for setting in raced]
    return proposals or [TrialProposal(space.nearest(values), "recipe")]


def similar_studies(
    session: Session, study: str, learner: str, objective: str, meta_features: Mapping[str, float]
) -> list[SimilarStudy]:
    """Earlier studies of a learner on data that look alike and have a finished trial, nearest and newest first."""
    found = []
    for other in studies_of_learner(session, learner, objective, besides=study):
        apart = distance(meta_features, other.meta_features)
        best = best_trial(study_trials(session, other.name), other.direction)
        if apart > MOST_DISTANCE or best is None:
            continue
        try:
            values = {key.name: key.value for key in recipe_keys(recipe_of(other.recipe)).values()}
        except ConfigError:  # written by another version
            continue
        found.append(SimilarStudy(other.name, other.dataset, apart, values | best.params))
    return sorted(found, key=lambda s: s.distance)[:MOST_SIMILAR]


def distinct_proposals(proposals: Sequence[TrialProposal]) -> list[TrialProposal]:
    """The first of each of equal proposals."""
    first: dict[str, TrialProposal] = {}
    for proposal in proposals:
        first.setdefault(_text(proposal.params), proposal)
    return list(first.values())


def abandoned_settings(trials: Sequence[TuningTrialRecord]) -> TrialProposal | None:
    """Settings of the first trial that came to no result and was not tried again; None without one."""
    for trial in trials:
        if trial.status not in ABANDONED:
            continue
        alike = [t for t in trials if _text(t.params) == _text(trial.params)]
        is_tried_again = any(t.number > trial.number for t in alike)
        if not is_tried_again and sum(t.status == "lost" for t in alike) < MOST_LOSSES:
            return TrialProposal(trial.params, f"again, trial {trial.number}")
    return None


def _text(params: Mapping[str, Any]) -> str:
    return json.dumps(dict(params), sort_keys=True)
