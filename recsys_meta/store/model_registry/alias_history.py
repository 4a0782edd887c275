"""History of the live alias of each model: its newest row alone determines the live version.

A change first locks the model's row, so that two changes happen one after the other; the unique sequence of the history
would refuse them otherwise.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from recsys_meta.core.errors import NotFoundError
from recsys_meta.store.model_registry.tables import AliasChangeRecord, ModelRecord

LIVE = "live"
Action = Literal["publish", "promote", "rollback", "retire"]


def check_model(session: Session, model: str) -> None:
    """Raise NotFoundError for an unknown model."""
    if session.get(ModelRecord, model) is None:
        raise NotFoundError(f"there is no model '{model}'; `recsys-meta models list` shows those there are")


def newest_change(session: Session, model: str) -> AliasChangeRecord | None:
    """Return the newest change of a model's live alias, None without any."""
    query = select(AliasChangeRecord).where(AliasChangeRecord.model == model, AliasChangeRecord.alias == LIVE)
    return session.scalars(query.order_by(AliasChangeRecord.sequence.desc()).limit(1)).first()


def alias_changes(session: Session, model: str) -> list[AliasChangeRecord]:
    """Return every change of a model's live alias, oldest first."""
    query = select(AliasChangeRecord).where(AliasChangeRecord.model == model, AliasChangeRecord.alias == LIVE)
    return list(session.scalars(query.order_by(AliasChangeRecord.sequence)))


def lock_model(session: Session, model: str, at: datetime) -> None:
    """Lock the model's row until the transaction ends: the update takes the lock on either database.

    Raises NotFoundError.
    """
    updated_rows = session.execute(
        update(ModelRecord).where(ModelRecord.name == model).values(updated=at).returning(ModelRecord.name)
    )
    if updated_rows.first() is None:
        raise NotFoundError(f"there is no model '{model}'; `recsys-meta models list` shows those there are")


def append_change(
    session: Session, model: str, version: str, action: Action, actor: str | None, at: datetime
) -> AliasChangeRecord:
    """Append a row to the history; the caller holds the lock."""
    current = newest_change(session, model)
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


def live_stack(changes: Sequence[AliasChangeRecord]) -> list[str | None]:
    """Return the versions that were live in order, less those rolled back; the last is live now, None: retired."""
    stack: list[str | None] = []
    for change in changes:
        if change.action == "rollback":  # to the version, past those that were archived or deleted then
            stack.pop()
            while stack and stack[-1] != change.version:
                stack.pop()
        elif change.action == "retire":
            stack.append(None)
        else:
            if stack and stack[-1] is None:
                stack.pop()
            if not stack or stack[-1] != change.version:  # else what was retired came back
                stack.append(change.version)
    return stack
