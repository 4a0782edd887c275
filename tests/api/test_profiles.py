"""What is stored of an entity: when it is still the same, and when it is the same later on."""

from dataclasses import replace

import pytest

from api.profiles import Profile
from recsys_meta.stored import Stored

EVENT = Stored("e1", "i3", 1.0, 5.0, {"hour": 3})
PROFILE = Profile({"age": 30}, (EVENT,), "1")


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
    assert other.mark != PROFILE.mark


def test_the_mark_is_about_what_is_stored_alone():
    same = Profile({"age": 30}, (replace(EVENT),), "2")
    same.memo["some version"] = None
    assert same.mark == PROFILE.mark
    pair = {"age": 30, "group": "a"}
    assert Profile(pair).mark == Profile(dict(reversed(pair.items()))).mark


def test_an_entity_continues_while_its_features_stay_and_no_event_is_gone():
    newer = replace(EVENT, event_id="e2", time=6.0)
    assert PROFILE.continues(PROFILE)
    assert replace(PROFILE, events=(EVENT, newer), stamp="2").continues(PROFILE)
    assert not replace(PROFILE, events=(newer,)).continues(PROFILE)
    assert not replace(PROFILE, features={"age": 60}).continues(PROFILE)
    assert not replace(PROFILE, features={}).continues(PROFILE)
    assert not Profile().continues(Profile()), "who was erased has nothing either"
