"""The factory of predictors: a learner, a baseline or an ensemble from its registered name and its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import explain_errors
from recsys_meta.models.baselines import BASELINES
from recsys_meta.models.baselines.per_shot_baseline import PER_SHOT_BASELINES
from recsys_meta.models.ensemble import Ensemble, EnsembleConfig, EnsembleMember, make_ensemble
from recsys_meta.models.learners import LEARNERS
from recsys_meta.models.protocols import Predictor, PredictorConfig

Config = TypeVar("Config", bound=PredictorConfig)


def build_predictor(name: str, config: Mapping[str, Any]) -> Predictor:
    """Build a learner, a baseline or an ensemble by name. Raises ConfigError for an unknown name or a wrong
    configuration."""
    if name == Ensemble.name:
        return build_ensemble(_validate_config(name, EnsembleConfig, config))
    classes: dict[str, Any] = {**LEARNERS, **BASELINES}
    if name not in classes:
        raise ConfigError(f"no learner or baseline '{name}'; there are {', '.join(sorted(classes))}")
    kind = classes[name]
    # A learner holds a configuration; a baseline is its own.
    predictor: Predictor
    if name in LEARNERS:
        predictor = kind(_validate_config(name, kind.Config, config))
    else:
        predictor = _validate_config(name, kind, config)
    return predictor


def build_ensemble(config: EnsembleConfig) -> Ensemble:
    """Build an ensemble and its members. Raises ConfigError for an unknown member or a wrong configuration of one."""
    return make_ensemble(config, [_build_member(member) for member in config.members])


def _build_member(member: EnsembleMember) -> Predictor:
    if not member.per_shot:
        return build_predictor(member.predictor, member.config)
    if member.predictor not in PER_SHOT_BASELINES:
        raise ConfigError(f"no baseline '{member.predictor}' to be tuned; there are {', '.join(PER_SHOT_BASELINES)}")
    return _validate_config(member.predictor, PER_SHOT_BASELINES[member.predictor], member.config)


def _validate_config(name: str, kind: type[Config], config: Mapping[str, Any]) -> Config:
    try:
        return kind(**config)
    except ValidationError as error:
        raise ConfigError(f"configuration of '{name}': {explain_errors(error)}") from None
