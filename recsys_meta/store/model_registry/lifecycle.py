"""End of a model's life: retired out of service, its versions archived or deleted, and it with all of them.

A version is named by its start; `bundle_files` removes what is deleted.
"""

from datetime import datetime

from sqlalchemy import delete
from sqlalchemy.orm import Session

from recsys_meta.core.errors import ConflictError, NotFoundError
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.model_registry.alias_history import append_change, check_model, lock_model
from recsys_meta.store.model_registry.registry import live_version, model_versions
from recsys_meta.store.model_registry.split_arms import end_split, newest_split
from recsys_meta.store.model_registry.tables import (
    AliasChangeRecord,
    DefaultModelRecord,
    ModelRecord,
    ModelVersionRecord,
)


def retire_model(
    session: Session, model: str, *, actor: str | None = None, now: datetime | None = None
) -> AliasChangeRecord | None:
    """Take a model out of service: no version of it is live, until one is promoted or it is rolled back.

    Its split ends, and it is no kind's default any more. Return the change, None where nothing was live. Raises
    NotFoundError.
    """
    at = utcnow(now)
    lock_model(session, model, at)
    live = live_version(session, model)
    if live is None:
        return None
    end_split(session, model, actor, at)
    session.execute(delete(DefaultModelRecord).where(DefaultModelRecord.model == model))
    return append_change(session, model, live.version, "retire", actor, at)


def archive_version(
    session: Session, model: str, version: str, *, restore: bool = False, now: datetime | None = None
) -> ModelVersionRecord:
    """Archive a version: nobody may use it until it is restored; its files stay.

    Raises NotFoundError, ConflictError for a version that is in service or deleted.
    """
    lock_model(session, model, utcnow(now))
    row = find_version(session, model, version)
    if row.deleted is not None:
        raise ConflictError(f"{model}@{row.version} is deleted")
    if not restore:
        _check_out_of_service(session, model, row.version)
    row.archived = None if restore else row.archived or utcnow(now)
    session.flush()
    return row


def delete_version(session: Session, model: str, version: str, *, now: datetime | None = None) -> ModelVersionRecord:
    """Mark a version as deleted; the caller removes its files. The row stays, because the history refers to it.

    Raises NotFoundError, ConflictError for a version that is in service.
    """
    lock_model(session, model, utcnow(now))
    row = find_version(session, model, version)
    _check_out_of_service(session, model, row.version)
    row.deleted = row.deleted or utcnow(now)
    session.flush()
    return row


def delete_model(session: Session, model: str, *, now: datetime | None = None) -> list[str]:
    """Delete a retired model with its versions, history and splits; return the folders of its versions.

    Raises NotFoundError, ConflictError for a model in service.
    """
    lock_model(session, model, utcnow(now))
    if live_version(session, model) is not None:
        raise ConflictError(f"model '{model}' is live; `recsys-meta models retire {model}` takes it out of service")
    paths = [row.path for row in model_versions(session, model)]
    session.execute(delete(ModelRecord).where(ModelRecord.name == model))
    return paths


def find_version(session: Session, model: str, start: str) -> ModelVersionRecord:
    """Return the one version that starts so, archived and deleted ones too. Raises NotFoundError, ConflictError."""
    matching = [row for row in model_versions(session, model) if row.version.startswith(start)]
    whole = [row for row in matching if row.version == start]
    if not matching:
        check_model(session, model)
        raise NotFoundError(f"model '{model}' has no version that starts with '{start}'")
    if len(matching) > 1 and not whole:
        raise ConflictError(f"{len(matching)} versions of model '{model}' start with '{start}'; give more of it")
    return (whole or matching)[0]


def _check_out_of_service(session: Session, model: str, version: str) -> None:
    """Raise ConflictError for a version that is live or an arm of a split."""
    live, split = live_version(session, model), newest_split(session, model)
    if live is not None and live.version == version:
        raise ConflictError(f"{model}@{version} is live; promote another version or retire the model first")
    if split is not None and any(arm.version == version for arm in split.arms):
        raise ConflictError(f"{model}@{version} is an arm of the model's split; end the split first")
