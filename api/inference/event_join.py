"""Events joined to what was stored before them, to the list that they answer, and to the model that they judge."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from api.inference.loaded_model import LoadedModel
from api.inference.model_registry import ModelRegistry
from recsys_meta.core.schema import Schema
from recsys_meta.inference.insight.next_event import NextEvent, NextEventLoss, answers_list
from recsys_meta.inference.requests.stored_events import StoredInteraction
from recsys_meta.store.entities.impressions import recent_impressions
from recsys_meta.store.entities.outcomes import NewOutcome, find_impression, hits_in_list
from recsys_meta.store.entities.profiles import read_stored_profile
from recsys_meta.store.entities.tables import ImpressionRecord

_CLOCK_S = 1.0  # an event's time may be in whole seconds, and so before the list that it answers


class ArrivedEvent(NamedTuple):
    """An event that was stored, and when it arrived."""

    kind: str
    event_id: str
    entity: str
    at: datetime


class JoinedEvent(NamedTuple):
    """An event with what was stored before it, the newest list shown before it within the window, and the model whose
    list that was, or else the one that answers for the entity; None: there is none, or it is not in service. `schema`:
    of that model, or of the version that took its place."""

    arrived: ArrivedEvent
    case: NextEvent
    impression: ImpressionRecord | None
    model: LoadedModel | None
    schema: Schema | None


def join_events(
    session: Session, registry: ModelRegistry, events: Sequence[ArrivedEvent], window: timedelta
) -> list[JoinedEvent]:
    """Join events; those that are gone, or were older than the window when they arrived, are left out."""
    by_entity: dict[tuple[str, str], list[ArrivedEvent]] = {}
    for event in events:
        by_entity.setdefault((event.kind, event.entity), []).append(event)
    result: list[JoinedEvent] = []
    for (kind, entity), arrivals in by_entity.items():
        features, history = read_stored_profile(session, kind, entity)
        since, until = min(one.at for one in arrivals) - 2 * window, max(one.at for one in arrivals)
        lists = recent_impressions(session, kind, entity, since, until)
        for one in arrivals:
            event_in_store = next((e for e in history if e.event_id == one.event_id), None)
            if event_in_store is not None and one.at.timestamp() - event_in_store.time <= window.total_seconds():
                case = NextEvent(features, [e for e in history if e.time < event_in_store.time], event_in_store)
                impression = _impression_before(one, event_in_store, lists, window)
                model = _model_of(registry, one, impression)
                result.append(JoinedEvent(one, case, impression, model, _schema_of(registry, model, impression)))
    return result


def outcome_row(joined: JoinedEvent, loss: NextEventLoss | None) -> NewOutcome | None:
    """Return the row of an event; None where there is nothing to tell: it answers no list, and no loss is known."""
    arrival, case, impression, model, _ = joined
    figures: dict[str, Any] = {}
    if loss is not None and loss.loss is not None:
        figures = {"loss": loss.loss, "loss_unadapted": loss.loss_unadapted}
    if impression is not None and _is_answer(joined):
        figures |= hits_in_list(impression, case.event.item, None if loss is None else loss.popular_rank)
    if not figures:
        return None
    shown_by: tuple[str, str, str | None]
    if impression is not None:
        shown_by = impression.model, impression.model_version, impression.variant
    else:
        assert model is not None  # it has a loss
        shown_by = model.name, model.version, model.variant
    size = loss.support_size if loss is not None else 0 if impression is None else impression.support_size
    kind, event_id, entity, at = arrival
    return NewOutcome(kind, event_id, entity, *shown_by, size, at, **figures)


def _impression_before(
    arrived: ArrivedEvent, event: StoredInteraction, lists: Sequence[ImpressionRecord], window: timedelta
) -> ImpressionRecord | None:
    at = datetime.fromtimestamp(event.time, arrived.at.tzinfo)
    recent = [one for one in lists if one.created >= at - window]
    return find_impression(recent, event.item, min(arrived.at, at + timedelta(seconds=_CLOCK_S)))


def _model_of(
    registry: ModelRegistry, arrived: ArrivedEvent, impression: ImpressionRecord | None
) -> LoadedModel | None:
    if impression is not None:
        key = impression.model, impression.model_version
        return next((m for m in registry.in_service() if (m.name, m.version) == key), None)
    model = registry.live.get(registry.defaults.get(arrived.kind, ""))
    return None if model is None else registry.arm_of(model, arrived.entity)


def _schema_of(
    registry: ModelRegistry, model: LoadedModel | None, impression: ImpressionRecord | None
) -> Schema | None:
    if model is None and impression is not None:
        model = registry.live.get(impression.model)
    return None if model is None else model.recommender.bundle.schema


def _is_answer(joined: JoinedEvent) -> bool:
    """Return whether the event may answer a list; where no model is left that could say so, whether it is a like."""
    return joined.case.event.label > 0 if joined.schema is None else answers_list(joined.schema, joined.case)
