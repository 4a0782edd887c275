"""Predictors by name."""

from __future__ import annotations

import pytest

from recsys_meta.core.errors import ConfigError
from recsys_meta.models.baselines import BASELINES
from recsys_meta.models.factory import build_predictor


@pytest.mark.parametrize("name", ["maml", *BASELINES])
def test_learners_and_baselines_are_made_by_name(name):
    predictor = build_predictor(name, {})
    assert predictor.name == name
    assert build_predictor(name, predictor.config.model_dump(mode="json")) == predictor


def test_errors_name_the_predictors_and_the_key():
    with pytest.raises(ConfigError, match=r"no learner or baseline 'oracle'; there are .*maml"):
        build_predictor("oracle", {})
    with pytest.raises(ConfigError, match="configuration of 'maml': colour"):
        build_predictor("maml", {"colour": 1})
