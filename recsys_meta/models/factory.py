"""The factory of predictors: a learner or a baseline from its registered name and its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import explain_errors
from recsys_meta.models.baselines import BASELINES
from recsys_meta.models.learners import LEARNERS
from recsys_meta.models.protocols import Predictor


def build_predictor(name: str, config: Mapping[str, Any]) -> Predictor:
    """Build a learner or baseline by name. Raises ConfigError for an unknown name or a wrong configuration."""
    classes: dict[str, Any] = {**LEARNERS, **BASELINES}
    if name not in classes:
        raise ConfigError(f"no learner or baseline '{name}'; there are {', '.join(sorted(classes))}")
    kind = classes[name]
    try:
        # A learner holds a configuration; a baseline is its own.
        predictor: Predictor = kind(kind.Config(**config)) if name in LEARNERS else kind(**config)
    except ValidationError as error:
        raise ConfigError(f"configuration of '{name}': {explain_errors(error)}") from None
    return predictor
