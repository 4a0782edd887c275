"""Events on their way to the database: each is judged by itself, and sending one again changes nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from api.inference.model_registry import LoadedModel, ModelRegistry
from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import explain_errors
from recsys_meta.inference.requests.stored_events import content_id, implicit_label
from recsys_meta.inference.requests.support_reader import describe_labels, is_valid_label
from recsys_meta.store.database.bulk_insert import in_chunks
from recsys_meta.store.entities import events as store
from recsys_meta.store.entities.events import NewEvent, Outcome
from recsys_meta.store.entities.tables import EventRecord as EventRow
from recsys_meta.wire.requests import Event

AHEAD_S = 300.0
"""How far the sender's clock may be ahead, seconds."""


class EventRejected(Exception):
    """Why an event is not stored."""


@dataclass(frozen=True)
class ValidEvent:
    """An event fit to be stored. `timed` is False where the sender gave no time."""

    index: int
    event: NewEvent
    timed: bool


def validate_events(raw: Sequence[Any], registry: ModelRegistry) -> tuple[list[ValidEvent], list[dict[str, Any]]]:
    """Events fit to be stored, and the refusals of the others."""
    now, judged, refused = time.time(), [], []
    for index, one in enumerate(raw):
        try:
            event = one if isinstance(one, Event) else Event.model_validate(one)
            judged.append(_judge(index, event, registry, now))
        except ValidationError as error:
            refused.append(event_rejection(index, one, explain_errors(error)))
        except EventRejected as error:
            refused.append(event_rejection(index, one, str(error)))
    return judged, refused


def save_events(session: Session, judged: Sequence[ValidEvent]) -> list[Outcome]:
    """Store events, one outcome for each. One without a time takes that under which it was stored before."""
    return store.insert_events(session, [j.event for j in _with_first_times(session, judged)])


def event_rejection(index: int, one: Any, reason: str) -> dict[str, Any]:
    """An entry of `refused` in the answer."""
    found = one.get("event_id") if isinstance(one, dict) else getattr(one, "event_id", None)
    # Shown only where it can be: it may be anything here.
    shown = found if isinstance(found, str) and found.isprintable() else None
    # A wrong field's own name is in the reason, and may hold what has no UTF-8.
    return {"index": index, "event_id": shown, "reason": reason.encode(errors="replace").decode()[:500]}


def _judge(index: int, event: Event, registry: ModelRegistry, now: float) -> ValidEvent:
    kind = event.kind or _only_kind(registry)
    at = event.time
    if at is not None and at > now + AHEAD_S:
        raise EventRejected(f"time: lies {at - now:.0f} s in the future")
    models = registry.of_kind(kind)
    label = _label(event.label, models)
    context = {k: v for k, v in (event.context or {}).items() if v is not None} or None
    if context and models:
        _check(context, models)
    event_id = event.event_id or content_id(kind, event.entity, event.item, label, at, context)
    moment = datetime.fromtimestamp(now if at is None else at, UTC)
    return ValidEvent(index, NewEvent(kind, event_id, event.entity, event.item, label, moment, context), at is not None)


def _only_kind(registry: ModelRegistry) -> str:
    kinds = sorted({model.kind for model in registry.live.values()})
    if len(kinds) != 1:
        raise EventRejected(f"kind: is needed; models in service are for {', '.join(kinds) or 'no kind yet'}")
    return kinds[0]


def _label(label: float | None, models: Sequence[LoadedModel]) -> float:
    """The label to store; it must mean something to one model of the kind, where there is any."""
    schemas = [model.recommender.bundle.schema for model in models]
    if label is not None:
        if schemas and not any(is_valid_label(schema, label) for schema in schemas):
            raise EventRejected(f"label: {label} is not {describe_labels(schemas[0])}")
        return label
    if not schemas:
        return 1.0
    told = [implicit_label(schema) for schema in schemas if schema.objective in ("ranking", "choice")]
    if not told:
        raise EventRejected("label: is needed; the model predicts " + schemas[0].objective + "s")
    return told[0]


def _check(context: dict[str, Any], models: Sequence[LoadedModel]) -> None:
    """Refuse a word that no model of the kind can read."""
    for name, value in context.items():
        complaints = [why for m in models if (why := _complaint(m, {name: value})) is not None]
        if len(complaints) == len(models):
            known = sorted({n for m in models for n in m.recommender.reader.fields.names})
            unknown = name not in known
            raise EventRejected(
                f"context: no model has a field '{name}'; known: {', '.join(known) or 'none'}"
                if unknown
                else f"context: {complaints[0]}"
            )


def _complaint(model: LoadedModel, context: dict[str, Any]) -> str | None:
    try:
        model.recommender.queries.check_context(context)
    except DataError as error:
        return str(error)
    return None


def _with_first_times(session: Session, judged: Sequence[ValidEvent]) -> list[ValidEvent]:
    keys = [(j.event.kind, j.event.event_id) for j in judged if not j.timed]
    first: dict[tuple[str, str], datetime] = {}
    for chunk in in_chunks(keys):
        query = select(EventRow.kind, EventRow.event_id, EventRow.time)
        matching = query.where(tuple_(EventRow.kind, EventRow.event_id).in_(chunk))
        for kind, event_id, at in session.execute(matching):
            first[kind, event_id] = at
    return [
        j
        if j.timed
        else replace(j, event=replace(j.event, time=first.get((j.event.kind, j.event.event_id), j.event.time)))
        for j in judged
    ]
