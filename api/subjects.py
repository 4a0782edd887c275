"""Whom a request is about: what the body says, joined with what is stored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api.models import Newcomer as NewcomerBody
from api.models import SupportEvent
from api.profiles import Profile, Profiles
from api.registry import Served
from recsys_meta.recommend import Interaction, Known, Newcomer
from recsys_meta.schema import Schema
from recsys_meta.store.cache import owner_key


@dataclass(frozen=True)
class Subject:
    """An entity: `entity` None is anonymous, `profile` None is not known because the database is away."""

    kind: str
    entity: str | None = None
    profile: Profile | None = None

    @property
    def owner(self) -> str | None:
        """Under which the caches keep what belongs to the entity."""
        return None if self.entity is None else owner_key(self.kind, self.entity)

    @property
    def stamp(self) -> str | None:
        """The stamp of the profile, None where there is none."""
        return None if self.profile is None else self.profile.stamp

    @property
    def repeatable(self) -> bool:
        """Whether an equal request is known to get an equal answer."""
        return self.entity is None or self.stamp is not None


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
    schema = served.recommender.bundle.schema
    stored = subject.profile or Profile()
    given = [Interaction(e.item, e.label, e.time) for e in events]
    told = {e.event_id for e in events if e.event_id is not None}
    kept = [
        Interaction(e.item, e.label, e.time) for e in stored.events if e.event_id not in told and fits(schema, e.label)
    ]
    features = {**_readable(schema, stored.features), **body.features}
    return served.recommender.know(Newcomer(features, kept + given))


def fits(schema: Schema, label: float) -> bool:
    """Whether a label is one of the model's."""
    low, high = schema.label_range or (-math.inf, math.inf)
    return math.isfinite(label) and low <= label <= high


def _readable(schema: Schema, features: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {f.name: f.kind for f in schema.entity_features}
    return {k: v for k, v in features.items() if k in kinds and (kinds[k] != "numeric" or _is_number(v))}


def _is_number(value: Any) -> bool:
    try:
        return value is None or abs(float(value)) < 3e38  # beyond, a float32 is infinite
    except (TypeError, ValueError):
        return False
