"""Results of traffic splits, those that ended too: rows of the view `split_results`, which has the statistics."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Double, Integer, String, column, select, table
from sqlalchemy.orm import Session

from recsys_meta.store.database.column_types import UtcDateTime


class ArmResult(NamedTuple):
    """Result of an arm: `lists` are events of `entities` that answered one of its lists, `hit_10` the share of them
    whose item was among the first ten, with the 95% interval of one look.

    `difference` is to the first arm, with a 95% interval and a p-value that hold however often one looks. `verdict`:
    reference (the first arm), too few, open, better or worse. None where there is too little to say.
    """

    sequence: int
    label: str
    model_version: str
    weight: float
    started: datetime
    ended: datetime | None
    entities: int
    lists: int
    hit_10: float | None
    hit_10_low: float | None
    hit_10_high: float | None
    reciprocal_rank: float | None
    gain: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    p: float | None
    verdict: str


_KINDS: Mapping[str, Any] = {
    **dict.fromkeys(("label", "model_version", "verdict"), String()),
    **dict.fromkeys(("entities", "lists"), BigInteger()),
    **dict.fromkeys(("started", "ended"), UtcDateTime()),
    "sequence": Integer(),
}
_VIEW = table(
    "split_results",
    column("model", String()),
    *(column(name, _KINDS.get(name, Double())) for name in ArmResult._fields),
)


def split_results(session: Session, model: str) -> list[ArmResult]:
    """Return the results of the splits of a model, the newest split first, its first arm first."""
    columns = _VIEW.c
    first = columns.verdict != "reference"
    query = select(*(columns[name] for name in ArmResult._fields)).where(columns.model == model)
    return [ArmResult(*row) for row in session.execute(query.order_by(columns.sequence.desc(), first, columns.label))]
