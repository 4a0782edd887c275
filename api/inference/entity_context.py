"""Whom a request is about: what the body says, joined with what is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from api.inference.model_registry import LoadedModel
from api.persistence.profile_cache import EntityProfile, ProfileCache
from recsys_meta.inference.requests.entity import EncodedEntity, EntityRequest
from recsys_meta.inference.requests.stored_events import content_id, implicit_label, merge_events
from recsys_meta.store.cache.keys import owner_key
from recsys_meta.wire.requests import EntityInput, SupportEvent


class EntityContext(NamedTuple):
    """An entity: `entity` None is anonymous, `profile` None is not known because the database is away."""

    kind: str
    entity: str | None = None
    profile: EntityProfile | None = None

    @property
    def owner(self) -> str | None:
        """Under which the caches keep what belongs to the entity."""
        return None if self.entity is None else owner_key(self.kind, self.entity)

    @property
    def mark(self) -> str | None:
        """A digest of what is stored: an equal request gets an equal answer while it is the same. Empty of an anonymous
        newcomer, None where it is not known."""
        if self.entity is None:
            return ""
        return None if self.profile is None else self.profile.digest


async def find_entity_context(profiles: ProfileCache, model: LoadedModel, body: EntityInput) -> EntityContext:
    """Look up the entity of a request; an anonymous one costs nothing."""
    if body.id is None:
        return EntityContext(model.kind)
    return EntityContext(model.kind, body.id, await profiles.load(model.kind, body.id))


def read_support(
    model: LoadedModel, entity_context: EntityContext, body: EntityInput, events: Sequence[SupportEvent]
) -> EncodedEntity:
    """The newcomer in the model's terms. Features of the body come before stored ones.

    What is stored may have been sent for another model: what this one cannot read is left out. What the body says
    must fit: raises DataError.
    """
    profile = entity_context.profile
    if profile is None or body.features or events:
        return _read(model, entity_context, body.features, events)
    found = profile.encodings.get(model.version)
    if found is None:
        found = profile.encodings[model.version] = _read(model, entity_context, {}, ())
    return found


def _read(
    model: LoadedModel, entity_context: EntityContext, features: Mapping[str, Any], events: Sequence[SupportEvent]
) -> EncodedEntity:
    recommender, profile = model.recommender, entity_context.profile
    given = [recommender.reader.fields.interaction(e.item, e.label, e.time, e.context) for e in events]
    told = EntityRequest(features, given)
    if profile is not None and (profile.events or profile.features):
        ids = {
            _event_id(model, entity_context, e) for e in events if e.event_id is not None or recommender.reader.repeats
        }
        told = merge_events(recommender.reader, profile.features, profile.events, told, ids)
    return recommender.read_support(told)


def _event_id(model: LoadedModel, entity_context: EntityContext, event: SupportEvent) -> str:
    """Under which id the event is stored, if it is."""
    if event.event_id is not None:
        return event.event_id
    label = implicit_label(model.recommender.bundle.schema) if event.label is None else event.label
    context = {k: v for k, v in (event.context or {}).items() if v is not None}
    return content_id(entity_context.kind, entity_context.entity or "", event.item, label, event.time, context)
