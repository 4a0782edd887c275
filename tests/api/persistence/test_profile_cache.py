"""What is stored of an entity: when it is still the same, and when it is the same later on."""

from dataclasses import replace

import pytest

from api.persistence.async_database import AsyncDatabase
from api.persistence.profile_cache import EntityProfile, ProfileCache, copy_cache
from recsys_meta.inference.requests.stored_events import StoredInteraction

EVENT = StoredInteraction("e1", "i3", 1.0, 5.0, {"hour": 3})
PROFILE = EntityProfile({"age": 30}, (EVENT,), "1")


@pytest.mark.parametrize(
    "other",
    [
        *(
            replace(PROFILE, events=(replace(EVENT, **changed),))
            for changed in (
                {"event_id": "e2"},
                {"item": "i4"},
                {"label": 2.0},
                {"time": 6.0},
                {"context": None},
                {"context": {"hour": 4}},
            )
        ),
        replace(PROFILE, events=()),
        replace(PROFILE, events=(EVENT, replace(EVENT, event_id="e2"))),
        replace(PROFILE, features={"age": 31}),
        replace(PROFILE, features={"group": 30}),
        replace(PROFILE, features={}),
    ],
)
def test_the_mark_is_another_whatever_of_a_profile_changes(other):
    assert other.digest != PROFILE.digest


def test_the_mark_is_about_what_is_stored_alone():
    same = EntityProfile({"age": 30}, (replace(EVENT),), "2")
    same.encodings["some version"] = None
    assert same.digest == PROFILE.digest
    pair = {"age": 30, "group": "a"}
    assert EntityProfile(pair).digest == EntityProfile(dict(reversed(pair.items()))).digest


def test_an_entity_continues_while_its_features_stay_and_no_event_is_gone():
    newer = replace(EVENT, event_id="e2", time=6.0)
    assert PROFILE.continues(PROFILE)
    assert replace(PROFILE, events=(EVENT, newer), stamp="2").continues(PROFILE)
    assert not replace(PROFILE, events=(newer,)).continues(PROFILE)
    assert not replace(PROFILE, features={"age": 60}).continues(PROFILE)
    assert not replace(PROFILE, features={}).continues(PROFILE)
    assert not EntityProfile().continues(EntityProfile()), "who was erased has nothing either"


def test_the_copy_of_an_entity_that_comes_often_stays_while_others_come(full, monkeypatch):
    """A copy that is dropped too early costs its entity a reading of the database at every request."""
    now = [0.0]
    monkeypatch.setattr("api.persistence.profile_cache._MAX_COPIES", 2)
    profiles = full.container.profiles
    monkeypatch.setattr(profiles, "_copies", copy_cache(lambda: now[0]))
    for entity in ("often", "second", "often", "third"):
        assert full.recommend("i3", entity={"id": entity}).status_code == 200
    assert [entity for _, entity in profiles._copies] == ["often", "third"]
    first = profiles._copies["user", "often"]
    full.recommend("i3", entity={"id": "often"})
    assert profiles._copies["user", "often"] is first
    now[0] = 3.0
    full.recommend("i3", entity={"id": "fourth"})
    assert [entity for _, entity in profiles._copies] == ["often", "fourth"]
    now[0] = 5.0
    full.recommend("i3", entity={"id": "fourth"})  # reads a copy and writes none
    now[0] = 0.0  # what was only hidden as too old would be there again
    assert [entity for _, entity in profiles._copies] == ["fourth"], "what is too old does not stay, used or not"


def test_copies_are_bounded_in_events_too_and_one_larger_than_all_is_not_copied(tmp_path, monkeypatch):
    monkeypatch.setattr("api.persistence.profile_cache._MAX_COPIED_EVENTS", 5)
    database = AsyncDatabase(f"sqlite:///{tmp_path}/x.db")
    profiles = ProfileCache(database, None)
    of = {n: EntityProfile(events=(EVENT,) * n, stamp="1") for n in (1, 2, 3, 5, 6)}
    for entity, n in (("a", 2), ("b", 3), ("c", 1)):
        profiles._copy(("user", entity), of[n])
    assert list(profiles._copies) == [("user", "b"), ("user", "c")]
    profiles._copy(("user", "c"), of[6])
    assert list(profiles._copies) == [("user", "b")], "neither the new one nor the old one of the same entity"
    profiles._copy(("user", "d"), of[5])
    assert list(profiles._copies) == [("user", "d")]
    database.close()
