"""The entity of a request: what the body says of it, merged with what is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from api.inference.loaded_model import LoadedModel
from api.persistence.profile_cache import EntityProfile, ProfileCache
from recsys_meta.inference.requests.entity import EncodedEntity, EntityRequest, Interaction
from recsys_meta.inference.requests.event_labels import read_labels
from recsys_meta.inference.requests.event_times import read_times
from recsys_meta.inference.requests.stored_events import content_id, implicit_label, merge_events
from recsys_meta.store.cache.keys import owner_key
from recsys_meta.wire.requests import EntityInput, SupportEvent


class EntityContext(NamedTuple):
    """Identity and stored profile of an entity: `entity` None is anonymous; `profile` None is unknown, because the
    database is away, or because the entity is anonymous."""

    kind: str
    entity: str | None = None
    profile: EntityProfile | None = None

    @property
    def owner(self) -> str | None:
        """The key under which the caches list what belongs to the entity; None for an anonymous one."""
        return None if self.entity is None else owner_key(self.kind, self.entity)

    @property
    def is_known(self) -> bool:
        """False where the database is away, so that what is stored of the entity is unknown."""
        return self.entity is None or self.profile is not None

    @property
    def mark(self) -> str | None:
        """A digest of what is stored: equal requests get equal responses while it stays. Empty for an anonymous entity,
        None where what is stored is unknown."""
        if self.entity is None:
            return ""
        return None if self.profile is None else self.profile.digest


async def find_entity_context(profiles: ProfileCache, model: LoadedModel, entity: EntityInput) -> EntityContext:
    """Look up the entity of a request; an anonymous one costs nothing."""
    if entity.id is None:
        return EntityContext(model.kind)
    return EntityContext(model.kind, entity.id, await profiles.load(model.kind, entity.id))


def read_support(
    model: LoadedModel, context: EntityContext, entity: EntityInput, events: Sequence[SupportEvent]
) -> EncodedEntity:
    """Encode the entity for a model: the events and features of the body, before those that are stored.

    What is stored may have been sent for another model: what this one cannot read is left out. What the body says
    must fit: raises DataError.
    """
    profile = context.profile
    if profile is None or entity.features or events:
        return _read(model, context, entity.features, events)
    encoded_entity = profile.encodings.get(model.mark)
    if encoded_entity is None:
        encoded_entity = profile.encodings[model.mark] = _read(model, context, {}, ())
    return encoded_entity


def to_entity_request(model: LoadedModel, features: Mapping[str, Any], events: Sequence[SupportEvent]) -> EntityRequest:
    """Convert features and events of a body to the request that the library reads. Raises DataError for a label or a
    time that the model cannot read."""
    fields, schema = model.recommender.reader.fields, model.recommender.bundle.schema
    times, labels = read_times([e.time for e in events], schema), read_labels([e.label for e in events], schema)
    rows = zip(events, labels, times, strict=True)
    if not fields.has_actors:
        return EntityRequest(features, [Interaction(e.item, label, time, e.context) for e, label, time in rows])
    return EntityRequest(features, [fields.interaction(e.item, label, time, e.context) for e, label, time in rows])


def merge_profile(
    model: LoadedModel, context: EntityContext, features: Mapping[str, Any], events: Sequence[SupportEvent]
) -> EntityRequest:
    """Convert features and events of a body, and what is stored beside them, to the request that the library reads.
    Raises DataError for a label or a time that the model cannot read."""
    recommender, profile = model.recommender, context.profile
    request = to_entity_request(model, features, events)
    if profile is not None and (profile.events or profile.features):
        ids = {
            _event_id(model, context, e, read.label, read.time)
            for e, read in zip(events, request.events, strict=True)
            if e.event_id is not None or recommender.reader.keeps_repeats
        }
        request = merge_events(recommender.reader, profile.features, profile.events, request, ids)
    return request


def _read(
    model: LoadedModel, context: EntityContext, features: Mapping[str, Any], events: Sequence[SupportEvent]
) -> EncodedEntity:
    return model.recommender.read_support(merge_profile(model, context, features, events))


def _event_id(
    model: LoadedModel, context: EntityContext, event: SupportEvent, label: float | None, time: float | None
) -> str:
    """The id under which the event, of this label and time in seconds, is stored, if it is."""
    if event.event_id is not None:
        return event.event_id
    label = implicit_label(model.recommender.bundle.schema) if label is None else label
    row_context = {k: v for k, v in (event.context or {}).items() if v is not None}
    return content_id(context.kind, context.entity or "", event.item, label, time, row_context)
