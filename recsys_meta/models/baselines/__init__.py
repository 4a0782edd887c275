"""Baselines: predictors in closed form, tuned on meta-validation like the learners."""

from recsys_meta.models.baselines.base import BaselineConfig
from recsys_meta.models.baselines.per_shot_baseline import PerShotBaseline, make_per_shot
from recsys_meta.models.baselines.registry import BASELINES, make_baseline

__all__ = ["BASELINES", "BaselineConfig", "PerShotBaseline", "make_baseline", "make_per_shot"]
