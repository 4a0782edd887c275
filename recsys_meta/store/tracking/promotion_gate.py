"""Promotion gate: comparison of a version's stored evaluation with the simplest baseline of the same evaluation."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean

from sqlalchemy import select
from sqlalchemy.orm import Session

from recsys_meta.metrics.metric_names import CHOICE, CLICK, LOWER_IS_BETTER, RANKING, RATING
from recsys_meta.store.tracking.tables import EvaluationRecord

SIMPLEST_BASELINES = ("popularity", "local-popularity")
"""Baselines that use nothing of the entity; the second uses how often each of its items was chosen."""
OBJECTIVES = (RANKING, RATING, CLICK, CHOICE)


@dataclass(frozen=True)
class PromotionCheck:
    """Means of a version (``ours``) and of the simplest baseline (``theirs``) over the common points of a stored curve.

    The metric is the main one of the objective, see `main_metric`.
    """

    metric: str
    baseline: str
    ours: float
    theirs: float
    points: int

    @property
    def loses(self) -> bool:
        """True if the baseline is the better of the two."""
        sign = -1 if self.metric in LOWER_IS_BETTER else 1
        return sign * self.ours < sign * self.theirs

    def __str__(self) -> str:
        return f"{self.metric} {self.ours:.4f} against {self.theirs:.4f} of '{self.baseline}' ({self.points} points)"


def check_promotion(session: Session, model: str, version: str) -> PromotionCheck | None:
    """Compare a version with the simplest baseline on its newest curve; None if it was never evaluated beside one."""
    query = select(EvaluationRecord).where(EvaluationRecord.model == model, EvaluationRecord.model_version == version)
    curves: dict[tuple[datetime, str, str], list[EvaluationRecord]] = {}
    for row in session.scalars(query.order_by(EvaluationRecord.created.desc(), EvaluationRecord.id)):
        curves.setdefault((row.created, row.dataset, row.scenario), []).append(row)
    for curve in curves.values():
        check = _compare_with_baseline(session, curve)
        if check is not None:
            return check
    return None


def main_metric(names: Collection[str]) -> str | None:
    """Return the first metric of the evaluated objective, None for metrics of no known objective.

    Ranking and choice share metrics, and the first of one is among those of the other: the objective is the one that
    most of the stored metrics belong to.
    """
    candidates = [metrics for metrics in OBJECTIVES if metrics[0] in names]
    return max(candidates, key=lambda metrics: len(set(metrics) & set(names)))[0] if candidates else None


def _compare_with_baseline(session: Session, mine: Sequence[EvaluationRecord]) -> PromotionCheck | None:
    first, metric = mine[0], main_metric({r.metric for r in mine})
    if metric is None:
        return None
    # A mean over several seeds belongs to no single version: a version of such a run has the points of its own seed.
    seed = None if any(r.seed is None for r in mine) else first.seed
    query = select(EvaluationRecord).where(
        EvaluationRecord.dataset == first.dataset,
        EvaluationRecord.scenario == first.scenario,
        EvaluationRecord.metric == metric,
        EvaluationRecord.created == first.created,
        EvaluationRecord.seed == seed,
        EvaluationRecord.method.in_(SIMPLEST_BASELINES),
    )
    baseline_rows = session.scalars(query.order_by(EvaluationRecord.id)).all()
    baseline = min((r.method for r in baseline_rows), key=SIMPLEST_BASELINES.index, default=None)
    theirs = {r.shots: r.value for r in baseline_rows if r.method == baseline and r.value is not None}
    ours = {r.shots: r.value for r in mine if (r.metric, r.seed) == (metric, seed) and r.value is not None}
    common = sorted(ours.keys() & theirs.keys())
    if baseline is None or not common:
        return None
    return PromotionCheck(
        metric, baseline, fmean(ours[k] for k in common), fmean(theirs[k] for k in common), len(common)
    )
