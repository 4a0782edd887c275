"""Arms of a traffic split: versions of a model that answer side by side, each for its share of the entities.

The newest change of a model is in force; one without arms records the end of a split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from itertools import accumulate, groupby

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from recsys_meta.store.model_registry.tables import SplitArmRecord


@dataclass(frozen=True)
class SplitArm:
    """A version under test and its share of the entities (0 to 1). `label` is its name in responses."""

    label: str
    version: str
    weight: float


@dataclass(frozen=True)
class TrafficSplit:
    """One change of a model's traffic split; without arms, its end."""

    model: str
    sequence: int
    arms: tuple[SplitArm, ...]
    salt: str
    actor: str | None
    at: datetime

    def arm_for(self, entity: str) -> SplitArm | None:
        """Return the arm of an entity, None if the split ended: the same in every process for a salt and shares."""
        if not self.arms:
            return None
        digest = blake2b(f"{self.salt}\0{entity}".encode(errors="surrogatepass"), digest_size=8).digest()
        position = int.from_bytes(digest, "big") / 2**64
        ends = accumulate(arm.weight for arm in self.arms)
        # Rounding may leave the last end a little below 1.
        return next((a for a, end in zip(self.arms, ends, strict=True) if position < end), self.arms[-1])


def current_splits(session: Session) -> list[TrafficSplit]:
    """Return the splits in force, by model."""
    newest = (
        select(SplitArmRecord.model, func.max(SplitArmRecord.sequence).label("sequence"))
        .group_by(SplitArmRecord.model)
        .subquery()
    )
    rows = select(SplitArmRecord).join(
        newest, (SplitArmRecord.model == newest.c.model) & (SplitArmRecord.sequence == newest.c.sequence)
    )
    return [
        s
        for s in _group_changes(session.scalars(rows.order_by(SplitArmRecord.model, SplitArmRecord.place)).all())
        if s.arms
    ]


def newest_split(session: Session, model: str) -> TrafficSplit | None:
    """Return the last change of a model's split, None if there never was one."""
    last = select(func.max(SplitArmRecord.sequence)).where(SplitArmRecord.model == model).scalar_subquery()
    rows = select(SplitArmRecord).where(SplitArmRecord.model == model, SplitArmRecord.sequence == last)
    return next(iter(_group_changes(session.scalars(rows.order_by(SplitArmRecord.place)).all())), None)


def split_changes(session: Session, model: str) -> list[TrafficSplit]:
    """Return every change of a model's split, newest first."""
    query = select(SplitArmRecord).where(SplitArmRecord.model == model)
    return _group_changes(session.scalars(query.order_by(SplitArmRecord.sequence.desc(), SplitArmRecord.place)).all())


def append_split(
    session: Session, model: str, arms: Sequence[SplitArm], salt: str, actor: str | None, at: datetime
) -> TrafficSplit:
    """Append a change, without arms an end; return it. The caller holds the lock of the model."""
    last = newest_split(session, model)
    split = TrafficSplit(model, 1 if last is None else last.sequence + 1, tuple(arms), salt, actor, at)
    rows: list[tuple[str, str | None, float]] = [(a.label, a.version, a.weight) for a in arms] or [("", None, 0.0)]
    common = {"model": model, "sequence": split.sequence, "salt": salt, "actor": actor, "at": at}
    for place, (label, version, weight) in enumerate(rows):
        session.add(SplitArmRecord(**common, place=place, label=label, version=version, weight=weight))
    session.flush()
    return split


def end_split(session: Session, model: str, actor: str | None, at: datetime) -> TrafficSplit | None:
    """End the split of a model if one is in force; return the last change. The caller holds the lock of the model."""
    last = newest_split(session, model)
    return append_split(session, model, (), last.salt, actor, at) if last is not None and last.arms else last


def _group_changes(rows: Sequence[SplitArmRecord]) -> list[TrafficSplit]:
    """Group rows, ordered by change and place, into changes."""
    changes = []
    for (model, sequence), group in groupby(rows, key=lambda r: (r.model, r.sequence)):
        members = list(group)
        arms = tuple(SplitArm(r.label, r.version, r.weight) for r in members if r.version is not None)
        changes.append(TrafficSplit(model, sequence, arms, members[0].salt, members[0].actor, members[0].at))
    return changes
