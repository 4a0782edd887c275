"""Whom a request is about: what the body says, joined with what is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from api.models import Newcomer as NewcomerBody
from api.models import SupportEvent
from api.profiles import Profile, Profiles
from api.registry import Served
from recsys_meta.reader import fits
from recsys_meta.recommend import Interaction, Known, Newcomer
from recsys_meta.schema import Schema
from recsys_meta.store.cache import owner_key


class Subject(NamedTuple):
    """An entity: `entity` None is anonymous, `profile` None is not known because the database is away."""

    kind: str
    entity: str | None = None
    profile: Profile | None = None

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
        return None if self.profile is None else self.profile.mark


async def find_subject(profiles: Profiles, served: Served, body: NewcomerBody) -> Subject:
    """Look up the entity of a request; an anonymous one costs nothing."""
    if body.id is None:
        return Subject(served.kind)
    return Subject(served.kind, body.id, await profiles.load(served.kind, body.id))


def know(served: Served, subject: Subject, body: NewcomerBody, events: Sequence[SupportEvent]) -> Known:
    """The newcomer in the model's terms. Features of the body come before stored ones.

    What is stored may have been sent for another model: what this one cannot read is left out. What the body says
    must fit: raises DataError.
    """
    profile = subject.profile
    if profile is None or body.features or events:
        return _read(served, profile or Profile(), body.features, events)
    found = profile.memo.get(served.version)
    if found is None:
        found = profile.memo[served.version] = _read(served, profile, {}, ())
    return found


def _read(served: Served, profile: Profile, features: Mapping[str, Any], events: Sequence[SupportEvent]) -> Known:
    recommender = served.recommender
    schema, fields = recommender.bundle.schema, recommender.fields
    given = [fields.interaction(e.item, e.label, e.time, e.context) for e in events]
    if not profile.events and not profile.features:  # all that there is was told just now
        return recommender.know(Newcomer(features, given))
    told = {e.event_id for e in events if e.event_id is not None}
    kept = [
        fields.interaction(e.item, e.label, e.time, fields.readable(e.context) if e.context else None)
        for e in profile.events
        if e.event_id not in told and fits(schema, e.label)
    ]
    if given and recommender.repeats:
        # Sent without an id, an event is known again by its content; else it would count twice.
        same = {_content(e) for e in given if e.time is not None}
        kept = [e for e in kept if _content(e) not in same]
    return recommender.know(Newcomer({**_readable(schema, profile.features), **features}, kept + given))


def _content(event: Interaction) -> tuple[Any, ...]:
    words = sorted((k, v) for k, v in (event.context or {}).items() if v is not None)
    return event.item, event.actor, None if event.time is None else round(event.time, 6), str(words)


def _readable(schema: Schema, features: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {f.name: f.kind for f in schema.entity_features}
    return {k: v for k, v in features.items() if k in kinds and (kinds[k] != "numeric" or _is_number(v))}


def _is_number(value: Any) -> bool:
    try:
        return value is None or abs(float(value)) < 3e38  # beyond, a float32 is infinite
    except (TypeError, ValueError):
        return False
