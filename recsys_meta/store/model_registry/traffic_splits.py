"""Start and end of traffic splits: versions of a model answer side by side, each for its share of the entities.

Every change of the live alias ends the split too, so that a promotion concludes an experiment and a rollback always
takes effect.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy.orm import Session

from recsys_meta.core.errors import ConfigError, ConflictError
from recsys_meta.core.limits import LABEL_LENGTH, MOST_ARMS
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.model_registry.alias_history import lock_model
from recsys_meta.store.model_registry.registry import (
    check_beats_baseline,
    live_version,
    model_detail,
    usable_version,
)
from recsys_meta.store.model_registry.split_arms import (
    SplitArm,
    TrafficSplit,
    append_split,
    end_split,
    newest_split,
    split_changes,
)


@dataclass(frozen=True)
class SplitDetail:
    """A model with its live version, its split in force (None without one) and every change of it, newest first."""

    name: str
    live: str | None
    split: TrafficSplit | None
    history: list[TrafficSplit]


def start_split(
    session: Session,
    model: str,
    arms: Sequence[SplitArm],
    *,
    salt: str | None = None,
    actor: str | None = None,
    now: datetime | None = None,
    force: bool = False,
) -> TrafficSplit:
    """Start a split between versions; weights are normalized to shares that sum to 1.

    Without a salt the last one is reused if the arms are the same in the same order, so that new weights move as few
    entities as possible between arms; otherwise a new one is drawn. Raises ConfigError for invalid arms, NotFoundError
    for an unknown model or version, ConflictError if no version is live or, unless forced, if an arm that is not live
    loses to the simplest baseline by its stored evaluation, or has none.
    """
    check_arms(arms)
    at = utcnow(now)
    lock_model(session, model, at)
    live = live_version(session, model)
    if live is None:
        raise ConflictError(f"model '{model}' has no live version to split from; promote one first")
    for arm in arms:
        usable_version(session, model, arm.version)
        if arm.version != live.version and not force:
            check_beats_baseline(session, model, arm.version)
    if salt is None:
        last = newest_split(session, model)
        salt = last.salt if last is not None and _arm_keys(last.arms) == _arm_keys(arms) else secrets.token_hex(8)
    total = sum(arm.weight for arm in arms)
    shares = [replace(arm, weight=arm.weight / total) for arm in arms]
    return append_split(session, model, shares, salt, actor, at)


def stop_split(
    session: Session, model: str, *, actor: str | None = None, now: datetime | None = None
) -> TrafficSplit | None:
    """End the split of a model, so that its live version answers all requests; without a split nothing changes.

    Returns the last change, None if there never was a split. Raises NotFoundError for an unknown model.
    """
    at = utcnow(now)
    lock_model(session, model, at)
    return end_split(session, model, actor, at)


def split_detail(session: Session, model: str) -> SplitDetail:
    """Return the split of a model. Raises NotFoundError."""
    live = model_detail(session, model).live
    changes = split_changes(session, model)
    return SplitDetail(model, live, changes[0] if changes and changes[0].arms else None, changes)


def check_arms(arms: Sequence[SplitArm]) -> None:
    """Raise ConfigError for arms that cannot make up a split."""
    if not 1 <= len(arms) <= MOST_ARMS:
        raise ConfigError(f"a split has 1 to {MOST_ARMS} arms, not {len(arms)}")
    if len({arm.label for arm in arms}) < len(arms) or not all(0 < len(arm.label) <= LABEL_LENGTH for arm in arms):
        raise ConfigError(f"every arm of a split needs a label of its own, of at most {LABEL_LENGTH} characters")
    if not all(math.isfinite(arm.weight) and arm.weight > 0 for arm in arms):
        raise ConfigError("the weights of a split are numbers above 0")


def _arm_keys(arms: Sequence[SplitArm]) -> list[tuple[str, str]]:
    return [(arm.label, arm.version) for arm in arms]
