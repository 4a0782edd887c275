"""Choice of an ensemble's members and weights on meta-validation."""

from recsys_meta.evaluation.ensemble.fit_ensemble import FittedEnsemble, MemberShare, fit_ensemble

__all__ = ["FittedEnsemble", "MemberShare", "fit_ensemble"]
