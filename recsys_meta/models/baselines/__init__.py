"""Baselines: predictors in closed form, tuned on meta-validation like the learners."""

from recsys_meta.models.baselines.base import BaselineConfig
from recsys_meta.models.baselines.per_shot_tuned import PerShotTuned, tuned
from recsys_meta.models.baselines.registry import BASELINES, baseline, serving

__all__ = ["BASELINES", "BaselineConfig", "PerShotTuned", "baseline", "serving", "tuned"]
