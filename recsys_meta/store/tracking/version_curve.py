"""The cold-start curve of a version beside the other methods of the same evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from recsys_meta.store.tracking.promotion_gate import main_metric
from recsys_meta.store.tracking.tables import EvaluationRecord

_MOST_POINTS = 5000


@dataclass(frozen=True)
class MethodCurve:
    """Points of one method, by `shots`; `is_own` where it is the version's."""

    method: str
    role: str
    is_own: bool
    points: dict[int, EvaluationRecord]


@dataclass(frozen=True)
class VersionCurve:
    """Curves of one evaluation in one metric, the version's first. `seed` None: means over so many `seeds`. Run, recipe
    and digest of the settings are the version's, where they are known."""

    dataset: str
    scenario: str
    created: datetime
    metric: str
    metrics: tuple[str, ...]
    seed: int | None
    seeds: int
    run: str | None
    recipe: str | None
    config_digest: str | None
    methods: tuple[MethodCurve, ...]

    @property
    def shots(self) -> list[int]:
        """Support sizes at which any method was measured."""
        return sorted({shots for method in self.methods for shots in method.points})


def version_curve(session: Session, model: str, version: str, metric: str | None = None) -> VersionCurve | None:
    """Return the curves of the newest evaluation of a version, in the main metric of its objective or in another one;
    None where there is no evaluation. Points of other evaluations, data sets, scenarios and seeds are not mixed in."""
    return _newest_curve(session, (EvaluationRecord.model == model, EvaluationRecord.model_version == version), metric)


def run_curve(session: Session, run: str, metric: str | None = None) -> VersionCurve | None:
    """Return the curves of the newest evaluation of what a run trained; see `version_curve`."""
    return _newest_curve(session, (EvaluationRecord.run == run, EvaluationRecord.model_version.is_not(None)), metric)


def _newest_curve(
    session: Session, conditions: Sequence[ColumnElement[bool]], metric: str | None
) -> VersionCurve | None:
    first = session.scalars(
        select(EvaluationRecord)
        .where(*conditions)
        .order_by(EvaluationRecord.created.desc(), EvaluationRecord.id)
        .limit(1)
    ).first()
    if first is None:
        return None
    own = first.model, first.model_version
    same = (
        EvaluationRecord.dataset == first.dataset,
        EvaluationRecord.scenario == first.scenario,
        EvaluationRecord.created == first.created,
    )
    rows = session.scalars(
        select(EvaluationRecord).where(*same).order_by(EvaluationRecord.id).limit(_MOST_POINTS)
    ).all()
    mine = [row for row in rows if (row.model, row.model_version) == own]
    names = tuple(dict.fromkeys(row.metric for row in mine))
    name = metric if metric in names else main_metric(names) or names[0]
    seed = None if any(row.seed is None for row in mine) else first.seed
    methods = _methods([row for row in rows if (row.metric, row.seed) == (name, seed)], own)
    return VersionCurve(
        first.dataset,
        first.scenario,
        first.created,
        name,
        names,
        seed,
        first.seeds,
        first.run,
        first.recipe,
        first.config_digest,
        methods,
    )


def _methods(rows: Sequence[EvaluationRecord], own: tuple[str | None, str | None]) -> tuple[MethodCurve, ...]:
    """Group points by method. Those of other published versions of the same evaluation are left out."""
    curves: dict[tuple[bool, str], MethodCurve] = {}
    for row in rows:
        is_own = (row.model, row.model_version) == own
        if row.model is not None and not is_own:
            continue
        curve = curves.setdefault((is_own, row.method), MethodCurve(row.method, row.role, is_own, {}))
        curve.points.setdefault(row.shots, row)
    own_methods = {method for is_own, method in curves if is_own}
    distinct_curves = [c for (is_own, method), c in curves.items() if is_own or method not in own_methods]
    return tuple(sorted(distinct_curves, key=lambda c: not c.is_own))
