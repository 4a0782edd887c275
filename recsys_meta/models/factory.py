"""The factory of predictors: a learner, a baseline or an ensemble from its registered name and its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import explain_errors
from recsys_meta.models.baselines import BASELINES
from recsys_meta.models.baselines.per_shot_baseline import per_shot_class
from recsys_meta.models.ensemble import Ensemble, EnsembleConfig, EnsembleMember, make_ensemble
from recsys_meta.models.learners import LEARNERS
from recsys_meta.models.protocols import Predictor, PredictorConfig

Config = TypeVar("Config", bound=PredictorConfig)


def build_predictor(name: str, config: Mapping[str, Any]) -> Predictor:
    """Build a learner, a baseline or an ensemble by name. Raises ConfigError for an unknown name or a wrong
    configuration."""
    if name == Ensemble.name:
        return build_ensemble(_validate_config(name, EnsembleConfig, config))
    if name in LEARNERS and name in BASELINES:
        raise ConfigError(
            f"'{name}' is a learner and a baseline{_describe_packages(name)}; one of them needs another name"
        )
    # A learner holds a configuration; a baseline is its own.
    predictor: Predictor
    if name in LEARNERS:
        predictor = LEARNERS[name](_validate_config(name, LEARNERS[name].Config, config))
    elif name in BASELINES:
        predictor = _validate_config(name, BASELINES[name], config)
    else:
        raise ConfigError(f"no learner or baseline '{name}'; there are {', '.join(sorted([*LEARNERS, *BASELINES]))}")
    return predictor


def packages_of(predictor: Predictor) -> dict[str, str]:
    """Return the packages, by the names they register, that a predictor or its members need beside this one."""
    config = predictor.config
    members = getattr(config, "members", ())
    names = [predictor.name, *(m.predictor if isinstance(m, EnsembleMember) else m.learner for m in members)]
    packages = {name: LEARNERS.package(name) or BASELINES.package(name) for name in names}
    return {name: package for name, package in packages.items() if package is not None}


def is_known(name: str) -> bool:
    """Return whether a learner or baseline of this name is installed."""
    return name in LEARNERS or name in BASELINES


def _describe_packages(name: str) -> str:
    packages = [p for p in (LEARNERS.package(name), BASELINES.package(name)) if p is not None]
    return f" ({' and '.join(f'package {p}' for p in packages)})" if packages else ""


def build_ensemble(config: EnsembleConfig) -> Ensemble:
    """Build an ensemble and its members. Raises ConfigError for an unknown member or a wrong configuration of one."""
    return make_ensemble(config, [_build_member(member) for member in config.members])


def _build_member(member: EnsembleMember) -> Predictor:
    if not member.per_shot:
        return build_predictor(member.predictor, member.config)
    if member.predictor not in BASELINES:
        raise ConfigError(f"no baseline '{member.predictor}' to be tuned; there are {', '.join(BASELINES)}")
    return _validate_config(member.predictor, per_shot_class(member.predictor), member.config)


def _validate_config(name: str, kind: type[Config], config: Mapping[str, Any]) -> Config:
    try:
        return kind(**config)
    except ValidationError as error:
        raise ConfigError(
            f"configuration of '{name}': {explain_errors(error, {'': list(kind.model_fields)})}"
        ) from None
