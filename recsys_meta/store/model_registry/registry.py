"""Models, their versions, and the live version of each.

A version that goes live answers all requests: the traffic split of the model ends, if there is one. Only one of its
arms may end it so; for any other version the caller has to say that it means it. `alias_history` says what is live,
`lifecycle` takes out of use.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from recsys_meta.core.errors import ConflictError, NotFoundError
from recsys_meta.store.database.bulk_insert import insert_into
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.model_registry.alias_history import (
    LIVE,
    Action,
    alias_changes,
    append_change,
    check_model,
    live_stack,
    lock_model,
    newest_change,
)
from recsys_meta.store.model_registry.split_arms import end_split as end_split_of
from recsys_meta.store.model_registry.split_arms import newest_split
from recsys_meta.store.model_registry.tables import (
    AliasChangeRecord,
    DefaultModelRecord,
    ModelRecord,
    ModelVersionRecord,
)
from recsys_meta.store.tracking.promotion_gate import check_promotion


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
    """Register a version without making it live; path, metrics and run of a registered one are updated.

    A deleted version is back then, because the caller has its files again. Raises ConflictError for an archived one:
    somebody took it out of use, and is to restore it.
    """
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
            "deleted": None,
        },
    )
    values = {"model": model, "version": version, "path": path, "run": run, "created": at}
    session.execute(upsert, {**values, "metrics": dict(metrics or {})})
    return usable_version(session, model, version)


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
    end_split: bool = False,
) -> AliasChangeRecord:
    """Register a version and make it live. Publishing the live version again adds nothing to the history.

    Raises ConflictError for a version that is archived, or would end a split of others, unless `end_split`.
    """
    register_version(session, model, version, path, run=run, metrics=metrics, now=now)
    return _move(session, model, version, "publish", actor, utcnow(now), end_split)


def promote_version(
    session: Session,
    model: str,
    version: str,
    *,
    actor: str | None = None,
    now: datetime | None = None,
    force: bool = False,
    end_split: bool = False,
) -> AliasChangeRecord:
    """Make a registered version live. Promoting the live version again adds nothing to the history.

    Raises NotFoundError for an unknown version; ConflictError for one that is archived or deleted, or would end a split
    of others, unless `end_split`; and, unless forced, for one that loses to the simplest baseline by its stored
    evaluation, or has none.
    """
    get_model_record(session, model, version)
    if not force:
        check_beats_baseline(session, model, version)
    return _move(session, model, version, "promote", actor, utcnow(now), end_split)


def check_beats_baseline(session: Session, model: str, version: str) -> None:
    """Raise ConflictError for a version that loses to the simplest baseline by its stored evaluation, or has none."""
    check = check_promotion(session, model, version)
    if check is None:
        raise ConflictError(
            f"{model}@{version} was never evaluated beside the simplest baseline: "
            f"`recsys-meta evaluate {model}@{version}` does that; or force it if you mean it"
        )
    if check.loses:
        raise ConflictError(f"{model}@{version} loses to the simplest baseline: {check}; force it if you mean it")


def rollback_version(
    session: Session, model: str, *, actor: str | None = None, now: datetime | None = None
) -> AliasChangeRecord:
    """Make the previously live version live; repeated, go back one further.

    Raises NotFoundError for an unknown model, ConflictError if there is no earlier live version.
    """
    at = utcnow(now)
    lock_model(session, model, at)
    target = rollback_target(session, model)
    end_split_of(session, model, actor, at)
    return append_change(session, model, target, "rollback", actor, at)


def rollback_target(session: Session, model: str) -> str:
    """Return the version that `rollback_version` makes live: of a retired model the last one. Raises like it."""
    check_model(session, model)
    live_versions = live_stack(alias_changes(session, model))[:-1]
    unusable = {v.version for v in model_versions(session, model) if v.archived or v.deleted}
    target = next((v for v in reversed(live_versions) if v is not None and v not in unusable), None)
    if target is None:
        raise ConflictError(f"model '{model}' has no earlier live version to go back to")
    return target


def set_default_model(
    session: Session, kind: str, model: str, *, actor: str | None = None, now: datetime | None = None
) -> None:
    """Let a model answer for a kind of entity where a request names none. Raises NotFoundError, and ConflictError for a
    model without a live version."""
    at = utcnow(now)
    lock_model(session, model, at)
    if live_version(session, model) is None:
        raise ConflictError(f"model '{model}' has no live version, so it cannot be the default of '{kind}'")
    new = insert_into(session, DefaultModelRecord)
    columns = {name: new.excluded[name] for name in ("model", "actor", "at")}
    statement = new.on_conflict_do_update(index_elements=["kind"], set_=columns)
    session.execute(statement, {"kind": kind, "model": model, "actor": actor, "at": at})


def default_models(session: Session) -> dict[str, str]:
    """Return the default model of each kind that has been given one."""
    return {row.kind: row.model for row in session.scalars(select(DefaultModelRecord))}


def live_version(session: Session, model: str) -> ModelVersionRecord | None:
    """Return the live version of a model, None if none was published or the model is retired."""
    change = newest_change(session, model)
    return None if change is None or change.action == "retire" else get_model_record(session, model, change.version)


def get_model_record(session: Session, model: str, version: str) -> ModelVersionRecord:
    """Return a version. Raises NotFoundError."""
    row = session.get(ModelVersionRecord, (model, version), populate_existing=True)
    if row is None:
        raise NotFoundError(f"model '{model}' has no version '{version}'")
    return row


def usable_version(session: Session, model: str, version: str) -> ModelVersionRecord:
    """Return a version that may be used. Raises NotFoundError, ConflictError for one that is archived or deleted."""
    row = get_model_record(session, model, version)
    if row.deleted is not None:
        raise ConflictError(f"{model}@{version} is deleted")
    if row.archived is not None:
        raise ConflictError(
            f"{model}@{version} is archived; `recsys-meta models archive {model}@{version} --restore` brings it back"
        )
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
    rows = [row for row in model_versions(session, model) if row.version.startswith(start)]
    matching = [row for row in rows if row.archived is None and row.deleted is None]
    if len(rows) == 1:
        return usable_version(session, model, rows[0].version)
    if not matching:
        check_model(session, model)
        raise NotFoundError(f"model '{model}' has no version that starts with '{start}'")
    if len(matching) > 1:
        raise ConflictError(f"{len(matching)} versions of model '{model}' start with '{start}'; give more of it")
    return matching[0]


def run_of_version(session: Session, version: str) -> str | None:
    """Return the run that a version was published from, under whatever name; None where that is not known."""
    query = select(ModelVersionRecord.run).where(
        ModelVersionRecord.version == version, ModelVersionRecord.run.is_not(None)
    )
    return session.scalars(query.order_by(ModelVersionRecord.created.desc()).limit(1)).first()


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
    current = current.where(AliasChangeRecord.alias == LIVE, AliasChangeRecord.action != "retire")
    versions = {row.model: row.version for row in session.scalars(current)}
    present = ModelVersionRecord.deleted.is_(None)
    version_counts = select(ModelVersionRecord.model, func.count()).where(present).group_by(ModelVersionRecord.model)
    counts = {row[0]: row[1] for row in session.execute(version_counts)}
    return [
        ModelSummary(m.name, versions.get(m.name), counts.get(m.name, 0), m.created, m.updated)
        for m in session.scalars(select(ModelRecord).order_by(ModelRecord.name))
    ]


def model_detail(session: Session, model: str) -> ModelDetail:
    """Return a model with its versions and history. Raises NotFoundError."""
    check_model(session, model)
    moves = alias_changes(session, model)
    live = moves[-1].version if moves and moves[-1].action != "retire" else None
    return ModelDetail(model, live, model_versions(session, model), moves[::-1])


def model_versions(session: Session, model: str) -> list[ModelVersionRecord]:
    """Return the versions of a model, newest first, archived and deleted ones too."""
    query = select(ModelVersionRecord).where(ModelVersionRecord.model == model)
    order = (ModelVersionRecord.created.desc(), ModelVersionRecord.version)
    return list(session.scalars(query.order_by(*order).execution_options(populate_existing=True)))


def _move(
    session: Session,
    model: str,
    version: str,
    action: Action,
    actor: str | None,
    at: datetime,
    end_split: bool,
) -> AliasChangeRecord:
    lock_model(session, model, at)
    usable_version(session, model, version)  # behind the lock: it may be archived or deleted until then
    current, split = newest_change(session, model), newest_split(session, model)
    arms = () if split is None else split.arms
    if arms and not end_split and all(arm.version != version for arm in arms):
        shown = ", ".join(f"{arm.label} ({arm.weight:.0%})" for arm in arms)
        raise ConflictError(
            f"model '{model}' is split between {shown}, and {version} is none of them: it would end the split. "
            "Stage it, or end the split with --end-split (end_split=true)"
        )
    end_split_of(session, model, actor, at)
    if current is not None and current.version == version and current.action != "retire":
        return current
    return append_change(session, model, version, action, actor, at)
