"""Models, their versions, and the live version of each.

The newest row of the alias history alone determines the live version. A change of the alias first locks the model's
row, so that two changes happen one after the other; the unique sequence of the history would refuse them otherwise. A
version that goes live answers all requests: the traffic split of the model ends, if there is one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from recsys_meta.core.errors import ConflictError, NotFoundError
from recsys_meta.store.database.bulk_insert import insert_into
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.model_registry.split_arms import end_split
from recsys_meta.store.model_registry.tables import AliasChangeRecord, ModelRecord, ModelVersionRecord
from recsys_meta.store.tracking.promotion_gate import check_promotion

LIVE = "live"
Action = Literal["publish", "promote", "rollback"]


@dataclass(frozen=True)
class ModelSummary:
    """A model with its live version, if any, and its number of versions."""

    name: str
    live: str | None
    versions: int
    created: datetime
    updated: datetime


@dataclass(frozen=True)
class ModelDetail:
    """A model with its versions and its alias history, both newest first."""

    name: str
    live: str | None
    versions: list[ModelVersionRecord]
    history: list[AliasChangeRecord]


def register_version(
    session: Session,
    model: str,
    version: str,
    path: str,
    *,
    run: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    now: datetime | None = None,
) -> ModelVersionRecord:
    """Register a version without making it live; path, metrics and run of a registered one are updated."""
    at = utcnow(now)
    new = insert_into(session, ModelRecord).on_conflict_do_nothing(index_elements=["name"])
    session.execute(new, {"name": model, "created": at, "updated": at})
    new = insert_into(session, ModelVersionRecord)
    upsert = new.on_conflict_do_update(
        index_elements=["model", "version"],
        set_={
            "path": new.excluded.path,
            "metrics": new.excluded.metrics,
            "run": func.coalesce(new.excluded.run, ModelVersionRecord.run),
        },
    )
    values = {"model": model, "version": version, "path": path, "run": run, "created": at}
    session.execute(upsert, {**values, "metrics": dict(metrics or {})})
    return get_model_record(session, model, version)


def publish_version(
    session: Session,
    model: str,
    version: str,
    path: str,
    *,
    run: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    actor: str | None = None,
    now: datetime | None = None,
) -> AliasChangeRecord:
    """Register a version and make it live. Publishing the live version again adds nothing to the history."""
    register_version(session, model, version, path, run=run, metrics=metrics, now=now)
    return _move(session, model, version, "publish", actor, utcnow(now))


def promote_version(
    session: Session,
    model: str,
    version: str,
    *,
    actor: str | None = None,
    now: datetime | None = None,
    force: bool = False,
) -> AliasChangeRecord:
    """Make a registered version live. Promoting the live version again adds nothing to the history.

    Raises NotFoundError for an unknown version; ConflictError, unless forced, for a version that loses to the simplest
    baseline by its stored evaluation.
    """
    get_model_record(session, model, version)
    if not force:
        check_beats_baseline(session, model, version)
    return _move(session, model, version, "promote", actor, utcnow(now))


def check_beats_baseline(session: Session, model: str, version: str) -> None:
    """Raise ConflictError for a version that loses to the simplest baseline by its stored evaluation."""
    check = check_promotion(session, model, version)
    if check is not None and check.loses:
        raise ConflictError(f"{model}@{version} loses to the simplest baseline: {check}; force it if you mean it")


def rollback_version(
    session: Session, model: str, *, actor: str | None = None, now: datetime | None = None
) -> AliasChangeRecord:
    """Make the previously live version live; repeated, go back one further.

    Raises NotFoundError for an unknown model, ConflictError if there is no earlier live version.
    """
    at = utcnow(now)
    lock_model(session, model, at)
    live_versions = _live_stack(_moves(session, model))
    if len(live_versions) < 2:
        raise ConflictError(f"model '{model}' has no earlier live version to go back to")
    end_split(session, model, actor, at)
    return _append(session, model, live_versions[-2], "rollback", actor, at)


def live_version(session: Session, model: str) -> ModelVersionRecord | None:
    """Return the live version of a model, None if none was published."""
    change = _newest(session, model)
    return None if change is None else get_model_record(session, model, change.version)


def get_model_record(session: Session, model: str, version: str) -> ModelVersionRecord:
    """Return a version. Raises NotFoundError."""
    row = session.get(ModelVersionRecord, (model, version), populate_existing=True)
    if row is None:
        raise NotFoundError(f"model '{model}' has no version '{version}'")
    return row


def resolve_version(session: Session, name: str) -> ModelVersionRecord:
    """Return the version named by ``model`` (its live one) or ``model@PREFIX``, a prefix of a version.

    Raises NotFoundError, or ConflictError if several versions have the prefix.
    """
    model, _, start = name.partition("@")
    if not start:
        live = live_version(session, model)
        if live is None:
            raise NotFoundError(f"model '{model}' has no live version; see `recsys-meta models list`")
        return live
    query = select(ModelVersionRecord).where(ModelVersionRecord.model == model)
    matching = [row for row in session.scalars(query) if row.version.startswith(start)]
    if not matching:
        _check_model(session, model)
        raise NotFoundError(f"model '{model}' has no version that starts with '{start}'")
    if len(matching) > 1:
        raise ConflictError(f"{len(matching)} versions of model '{model}' start with '{start}'; give more of it")
    return matching[0]


def page_models(session: Session) -> list[ModelSummary]:
    """Return every model, by name."""
    newest = (
        select(AliasChangeRecord.model, func.max(AliasChangeRecord.sequence).label("sequence"))
        .where(AliasChangeRecord.alias == LIVE)
        .group_by(AliasChangeRecord.model)
        .subquery()
    )
    current = select(AliasChangeRecord).join(
        newest, (AliasChangeRecord.model == newest.c.model) & (AliasChangeRecord.sequence == newest.c.sequence)
    )
    versions = {row.model: row.version for row in session.scalars(current.where(AliasChangeRecord.alias == LIVE))}
    version_counts = select(ModelVersionRecord.model, func.count()).group_by(ModelVersionRecord.model)
    counts = {row[0]: row[1] for row in session.execute(version_counts)}
    return [
        ModelSummary(m.name, versions.get(m.name), counts.get(m.name, 0), m.created, m.updated)
        for m in session.scalars(select(ModelRecord).order_by(ModelRecord.name))
    ]


def model_detail(session: Session, model: str) -> ModelDetail:
    """Return a model with its versions and history. Raises NotFoundError."""
    _check_model(session, model)
    query = select(ModelVersionRecord).where(ModelVersionRecord.model == model)
    versions = session.scalars(query.order_by(ModelVersionRecord.created.desc(), ModelVersionRecord.version)).all()
    moves = _moves(session, model)
    return ModelDetail(model, moves[-1].version if moves else None, list(versions), moves[::-1])


def _move(
    session: Session, model: str, version: str, action: Action, actor: str | None, at: datetime
) -> AliasChangeRecord:
    lock_model(session, model, at)
    end_split(session, model, actor, at)
    current = _newest(session, model)
    if current is not None and current.version == version:
        return current
    return _append(session, model, version, action, actor, at)


def _append(
    session: Session, model: str, version: str, action: Action, actor: str | None, at: datetime
) -> AliasChangeRecord:
    """Append a row to the history; the caller holds the lock."""
    current = _newest(session, model)
    row = AliasChangeRecord(
        model=model,
        alias=LIVE,
        sequence=1 if current is None else current.sequence + 1,
        version=version,
        previous=None if current is None else current.version,
        action=action,
        actor=actor,
        at=at,
    )
    session.add(row)
    session.flush()
    return row


def lock_model(session: Session, model: str, at: datetime) -> None:
    """Lock the model's row until the transaction ends: the update takes the lock on either database.

    Raises NotFoundError.
    """
    updated_rows = session.execute(
        update(ModelRecord).where(ModelRecord.name == model).values(updated=at).returning(ModelRecord.name)
    )
    if updated_rows.first() is None:
        raise NotFoundError(f"there is no model '{model}'; `recsys-meta models list` shows those there are")


def _check_model(session: Session, model: str) -> None:
    if session.get(ModelRecord, model) is None:
        raise NotFoundError(f"there is no model '{model}'; `recsys-meta models list` shows those there are")


def _newest(session: Session, model: str) -> AliasChangeRecord | None:
    query = select(AliasChangeRecord).where(AliasChangeRecord.model == model, AliasChangeRecord.alias == LIVE)
    return session.scalars(query.order_by(AliasChangeRecord.sequence.desc()).limit(1)).first()


def _moves(session: Session, model: str) -> list[AliasChangeRecord]:
    query = select(AliasChangeRecord).where(AliasChangeRecord.model == model, AliasChangeRecord.alias == LIVE)
    return list(session.scalars(query.order_by(AliasChangeRecord.sequence)))


def _live_stack(moves: Sequence[AliasChangeRecord]) -> list[str]:
    """Return the versions that were live in order, less those rolled back; the last is live now."""
    stack: list[str] = []
    for move in moves:
        if move.action == "rollback":
            stack.pop()
        else:
            stack.append(move.version)
    return stack
