"""Ensemble: a learner and tuned baselines as one predictor, weighted by the size of the support."""

from recsys_meta.models.ensemble.ensemble import (
    Ensemble,
    EnsembleConfig,
    EnsembleMember,
    UncertainEnsemble,
    WarmStartEnsemble,
    make_ensemble,
)

__all__ = ["Ensemble", "EnsembleConfig", "EnsembleMember", "UncertainEnsemble", "WarmStartEnsemble", "make_ensemble"]
