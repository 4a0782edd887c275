"""Ingestion of events: each is checked by itself, and an event sent again changes nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pydantic import ValidationError

from api.container import AppContainer
from api.inference.event_join import ArrivedEvent
from api.inference.loaded_model import LoadedModel
from api.inference.model_registry import ModelRegistry
from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import explain_errors
from recsys_meta.inference.requests.event_labels import read_labels
from recsys_meta.inference.requests.event_times import read_times
from recsys_meta.inference.requests.stored_events import content_id, implicit_label
from recsys_meta.inference.requests.support_reader import describe_labels, is_valid_label
from recsys_meta.store.entities.events import NewEvent, insert_events
from recsys_meta.wire.requests import Event

MAX_AHEAD_S = 300.0
"""Time by which the sender's clock may be ahead, seconds."""


_FEW_EVENTS = 16  # so many are validated at once, without a thread


class InvalidEventError(Exception):
    """Raised for an event that cannot be stored; says why."""


async def ingest_events(container: AppContainer, raw: Sequence[Any]) -> dict[str, Any]:
    """Check and store events, raw or as `Event`; answer the counts and the rejections of the receipt.

    Raises StoreUnavailable while the database is away; then none is stored.
    """
    # A thousand wrong events take longer than the event loop may stand still.
    check = partial(validate_events, raw, container.registry)
    events, rejections = check() if len(raw) <= _FEW_EVENTS else await asyncio.to_thread(check)
    new_events, arrived = list(events.values()), datetime.now(UTC)
    outcomes = await container.database.write(lambda s: insert_events(s, new_events)) if events else []
    for index, outcome in zip(events, outcomes, strict=True):
        if outcome == "conflict":
            reason = "event_id: is known with other content, which stays as it was"
            rejections.append(event_rejection(index, raw[index], reason))
    stored = [event for event, outcome in zip(new_events, outcomes, strict=True) if outcome == "new"]
    await container.profiles.invalidate({(event.kind, event.entity) for event in stored})
    container.outcomes.put(ArrivedEvent(event.kind, event.event_id, event.entity, arrived) for event in stored)
    counts = {"accepted": outcomes.count("new"), "duplicates": outcomes.count("duplicate")}
    for name, count in {**counts, "refused": len(rejections)}.items():
        container.metrics.events.labels(name).inc(count)
    missing = container.degraded_dependencies()
    rejections.sort(key=lambda rejection: int(rejection["index"]))
    unknown = _unknown_items(new_events, container.registry)
    return {
        "outcome": _outcome(counts["accepted"], counts["duplicates"], len(rejections)),
        **counts,
        "refused": rejections,
        "unknown_items": unknown,
        "degraded": bool(missing),
        "missing": missing,
    }


def _outcome(accepted: int, duplicates: int, refused: int) -> str:
    """Return what became of a batch, in a word: a receipt of status 200 may say that nothing was stored."""
    if not accepted:
        return "nothing new" if duplicates else "nothing stored"
    return "partly stored" if refused else "stored"


def _unknown_items(events: Sequence[NewEvent], registry: ModelRegistry) -> list[str]:
    """Items that no model of their kind has, where there is one whose entities share a catalogue."""
    unknown: set[str] = set()
    for kind in {event.kind for event in events}:
        models = registry.of_kind(kind)
        if models and all(m.recommender.bundle.schema.home is None for m in models):
            items = {event.item for event in events if event.kind == kind}
            unknown |= {item for item in items if not any(item in m.recommender.catalog.ids for m in models)}
    return sorted(unknown)


def validate_events(raw: Sequence[Any], registry: ModelRegistry) -> tuple[dict[int, NewEvent], list[dict[str, Any]]]:
    """Check events; answer those to store, by their index in `raw`, and the rejections of the others."""
    now = time.time()
    events: dict[int, NewEvent] = {}
    rejections: list[dict[str, Any]] = []
    for index, content in enumerate(raw):
        try:
            event = content if isinstance(content, Event) else Event.model_validate(content)
            events[index] = _new_event(event, registry, now)
        except ValidationError as error:
            rejections.append(event_rejection(index, content, explain_errors(error)))
        except InvalidEventError as error:
            rejections.append(event_rejection(index, content, str(error)))
    return events, rejections


def event_rejection(index: int, content: Any, reason: str) -> dict[str, Any]:
    """An entry of `refused` in the receipt."""
    event_id = content.get("event_id") if isinstance(content, dict) else getattr(content, "event_id", None)
    # A wrong field's own name is in the reason, and may hold what has no UTF-8.
    reason = reason.encode(errors="replace").decode()[:500]
    return {"index": index, "event_id": printable_text(event_id), "reason": reason}


def printable_text(value: Any) -> str | None:
    """Return an id of a body that was not checked: it may be anything, and is shown only where it can be."""
    return value if isinstance(value, str) and value.isprintable() else None


def _new_event(event: Event, registry: ModelRegistry, now: float) -> NewEvent:
    """The row of an event, with what the sender left out. Raises InvalidEventError."""
    kind = event.kind or _only_kind(registry)
    models = registry.of_kind(kind)
    timestamp = _timestamp(event.time, models)
    if timestamp is not None and timestamp > now + MAX_AHEAD_S:
        raise InvalidEventError(f"time: lies {timestamp - now:.0f} s in the future")
    label = _label(event.label, models)
    context = {k: v for k, v in (event.context or {}).items() if v is not None} or None
    if context and models:
        _check_context(context, models)
    event_id = event.event_id or content_id(kind, event.entity, event.item, label, timestamp, context)
    at = None if timestamp is None else datetime.fromtimestamp(timestamp, UTC)
    return NewEvent(kind, event_id, event.entity, event.item, label, at, context, event.label is not None)


def _only_kind(registry: ModelRegistry) -> str:
    kinds = sorted({model.kind for model in registry.live.values()})
    if len(kinds) != 1:
        raise InvalidEventError(f"kind: is needed; models in service are for {', '.join(kinds) or 'no kind yet'}")
    return kinds[0]


def _timestamp(time: float | str | None, models: Sequence[LoadedModel]) -> float | None:
    """Seconds of a time, a text as in the data of some model of the kind. Raises InvalidEventError where none has it
    so."""
    schemas = [model.recommender.bundle.schema for model in models]
    problems = []
    for schema in schemas or (None,):
        try:
            return read_times([time], schema)[0]
        except DataError as error:
            problems.append(error.problem)
    raise InvalidEventError(f"time: {problems[0]}")


def _label(label: float | str | None, models: Sequence[LoadedModel]) -> float:
    """The label to store, a word as in the data of some model of the kind. Raises InvalidEventError for one that is
    valid for no model of the kind, where there is any."""
    schemas = [model.recommender.bundle.schema for model in models]
    if isinstance(label, str):
        try:
            knowing = [schema for schema in schemas if label.strip() in schema.label_values]
            (label,) = read_labels([label], next(iter(knowing or schemas), None))
        except DataError as error:
            raise InvalidEventError(f"label: {error.problem}") from None
    if label is not None:
        if schemas and not any(is_valid_label(schema, label) for schema in schemas):
            raise InvalidEventError(f"label: {label} is not {describe_labels(schemas[0])}")
        return label
    if not schemas:
        return 1.0
    implicit_labels = [implicit_label(schema) for schema in schemas if schema.objective in ("ranking", "choice")]
    if not implicit_labels:
        raise InvalidEventError("label: is needed; the model predicts " + schemas[0].objective + "s")
    return implicit_labels[0]


def _check_context(context: dict[str, Any], models: Sequence[LoadedModel]) -> None:
    """Raise InvalidEventError for a context value that no model of the kind can read."""
    for name, value in context.items():
        complaints = [why for m in models if (why := _complaint(m, {name: value})) is not None]
        if len(complaints) == len(models):
            fields = sorted({n for m in models for n in m.recommender.reader.fields.names})
            raise InvalidEventError(
                f"context: {complaints[0]}"
                if name in fields
                else f"context: no model has a field '{name}'; known: {', '.join(fields) or 'none'}"
            )


def _complaint(model: LoadedModel, context: dict[str, Any]) -> str | None:
    try:
        model.recommender.queries.check_context(context)
    except DataError as error:
        return str(error)
    return None
