"""Whether a version may go live: what its stored evaluation says beside the simplest baseline of the same table."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean

from sqlalchemy import select
from sqlalchemy.orm import Session

from recsys_meta.metrics.ranking_metrics import CHOICE, CLICK, LOWER_IS_BETTER, RANKING, RATING
from recsys_meta.store.tracking.tables import EvaluationRecord

SIMPLEST_BASELINES = ("popularity", "local-popularity")
"""Baselines that know nothing of the newcomer but, for the second, how often its items were taken."""
OBJECTIVES = (RANKING, RATING, CLICK, CHOICE)


@dataclass(frozen=True)
class PromotionCheck:
    """Means over the common points of the newest stored curve of a version and of the simplest baseline beside it, in
    the metric that choices are made by."""

    metric: str
    baseline: str
    ours: float
    theirs: float
    points: int

    @property
    def loses(self) -> bool:
        """Whether the baseline is the better of the two."""
        sign = -1 if self.metric in LOWER_IS_BETTER else 1
        return sign * self.ours < sign * self.theirs

    def __str__(self) -> str:
        return f"{self.metric} {self.ours:.4f} against {self.theirs:.4f} of '{self.baseline}' ({self.points} points)"


def check_promotion(session: Session, model: str, version: str) -> PromotionCheck | None:
    """How a version stands; None where it was never evaluated beside such a baseline."""
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
    """The first metric of the objective that was evaluated, None where it is none of ours.

    A ranking and a choice share metrics, and the first of one is among those of the other: all that was stored
    together says which it was.
    """
    candidates = [metrics for metrics in OBJECTIVES if metrics[0] in names]
    return max(candidates, key=lambda metrics: len(set(metrics) & set(names)))[0] if candidates else None


def _compare_with_baseline(session: Session, mine: Sequence[EvaluationRecord]) -> PromotionCheck | None:
    first, metric = mine[0], main_metric({r.metric for r in mine})
    if metric is None:
        return None
    # A mean over several seeds is of no single version: one that was trained with others has its own seed's points.
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
