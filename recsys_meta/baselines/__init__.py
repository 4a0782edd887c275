"""Baselines: predictors in closed form, tuned on meta-validation like the learners."""

from recsys_meta.baselines.base import BaselineConfig
from recsys_meta.baselines.registry import BASELINES, baseline, serving
from recsys_meta.baselines.tuned import Tuned, tuned

__all__ = ["BASELINES", "BaselineConfig", "Tuned", "baseline", "serving", "tuned"]
