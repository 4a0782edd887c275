"""Whether a version may go live: what its stored evaluation says beside the simplest baseline of the same table."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from recsys_meta.metrics import CHOICE, CLICK, LOWER_IS_BETTER, RANKING, RATING
from recsys_meta.store.tables import Evaluation

SIMPLEST = ("popularity", "local-popularity")
"""Baselines that know nothing of the newcomer but, for the second, how often its items were taken."""
MAIN = (RANKING[0], RATING[0], CLICK[0], CHOICE[0])


@dataclass(frozen=True)
class Standing:
    """Means over the common points of the newest stored curve of a version and of the simplest baseline beside it."""

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


def standing(session: Session, model: str, version: str) -> Standing | None:
    """How a version stands; None where it was never evaluated beside such a baseline."""
    own = select(Evaluation).where(
        Evaluation.model == model, Evaluation.model_version == version, Evaluation.metric.in_(MAIN)
    )
    rows = session.scalars(own.where(Evaluation.seed.is_(None)).order_by(Evaluation.created.desc())).all()
    for created in dict.fromkeys(r.created for r in rows):
        mine = [r for r in rows if r.created == created]
        found = _against(session, mine)
        if found is not None:
            return found
    return None


def _against(session: Session, mine: Sequence[Evaluation]) -> Standing | None:
    first = mine[0]
    beside = select(Evaluation).where(
        Evaluation.dataset == first.dataset,
        Evaluation.scenario == first.scenario,
        Evaluation.metric == first.metric,
        Evaluation.created == first.created,
        Evaluation.method.in_(SIMPLEST),
        Evaluation.seed.is_(None),
    )
    theirs = {r.shots: r for r in session.scalars(beside) if r.value is not None}
    pairs = [
        (r.value, theirs[r.shots].value)
        for r in mine
        if r.shots in theirs and r.value is not None and r.metric == first.metric and r.scenario == first.scenario
    ]
    if not pairs:
        return None
    ours, others = (sum(float(p[i] or 0.0) for p in pairs) / len(pairs) for i in (0, 1))
    return Standing(first.metric, next(iter(theirs.values())).method, ours, others, len(pairs))
