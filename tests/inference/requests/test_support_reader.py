"""What a recommender knows of a newcomer: its support, what it has seen, and the digest of both."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_meta.core.errors import DataError
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EncodedEntity, EntityRequest, Interaction
from recsys_meta.inference.requests.support_reader import MAX_SUPPORT
from tests.fixtures import trained_recommenders as served
from tests.fixtures.trained_recommenders import EVENTS, answer


@pytest.fixture(scope="module")
def data():
    return served.world()


@pytest.fixture(scope="module")
def model():
    return served.ranking()


@pytest.fixture(scope="module")
def liking():
    return served.liking()


@pytest.fixture(scope="module")
def rating():
    return served.rating()


@given(events=EVENTS, seed=st.integers(0, 99))
def test_the_order_of_events_does_not_matter(liking, events, seed):
    mixed = random.Random(seed).sample(events, len(events))
    one, other = (liking.read_support(EntityRequest(events=e)) for e in (events, mixed))
    assert one == other and one.digest == other.digest


@given(events=EVENTS)
def test_events_of_which_only_the_item_is_said_are_read_as_those_with_one_time_for_all(liking, events):
    plain = [Interaction(e.item) for e in events]
    one, other = (liking.read_support(EntityRequest(events=e)) for e in (plain, [e._replace(time=1.0) for e in plain]))
    assert one == other and one.digest == other.digest


@given(events=EVENTS)
def test_knowing_equals_its_rules_one_by_one(liking, events):
    """The last word on an item counts (the higher of two at once, one without a time is last); likes are support."""
    known = liking.read_support(EntityRequest(events=events))
    items = {e.item for e in events}
    assert known.unknown_items == tuple(sorted(items & {"none", "other"}))
    here = sorted(items - {"none", "other"})
    assert known.seen_items == {int(i[1:]) + 2 for i in here}
    liked = set()
    for item in here:
        own = [e for e in events if e.item == item]
        time = max(math.inf if e.time is None else e.time for e in own)
        last = [e for e in own if (math.inf if e.time is None else e.time) == time]
        if any(e.label is None or e.label >= 4 for e in last):
            liked.add(int(item[1:]) + 2)
    assert set(known.items) == liked and len(known.items) == len(liked)
    assert known.labels == (1.0,) * len(liked)


def test_repeated_items_count_once_with_the_latest_label(rating, liking):
    events = [
        Interaction("i4", 1.0, 10),
        Interaction("i5", 2.0, 5),
        Interaction("i4", 3.0, 20),
        Interaction("i4", 9, 3),
    ]
    known = rating.read_support(EntityRequest(events=events))
    assert dict(zip(known.items, known.labels, strict=True)) == {6: 3.0, 7: 2.0}
    changed = [Interaction("i4", 5.0, 1), Interaction("i4", 2.0, 2)]
    assert liking.read_support(EntityRequest(events=changed)).items == (), "taken back"
    assert liking.read_support(EntityRequest(events=changed[::-1])).seen_items == {6}
    assert liking.read_support(EntityRequest(events=[Interaction("i4", 2.0, 1), Interaction("i4", 5.0, 2)])).items == (
        6,
    )


def test_labels_below_positive_are_dislikes(liking):
    events = [Interaction("i4", 3.0), Interaction("i5", 4.0), Interaction("i9", 0.0)]
    known = liking.read_support(EntityRequest(events=events))
    assert (known.items, known.dislikes, known.seen_items) == ((7,), (6, 11), {6, 7, 11})
    got = answer(liking, events[:2], n=99)
    assert got.support_size == 2
    assert not {"i4", "i5"} & {s.item for s in got.items} and len(got.items) == 28


def test_only_the_most_recent_are_support(model, data):
    names = [f"x{i}" for i in range(MAX_SUPPORT + 40)]
    values = {**model.bundle.vocab.values, "item": type(data.vocab.values["item"])(names, dtype="str")}
    big = Recommender(replace(model.bundle, vocab=replace(model.bundle.vocab, values=values)))
    events = [Interaction(n, time=float(i)) for i, n in enumerate(names)]
    known = big.read_support(EntityRequest(events=random.Random(0).sample(events, len(events))))
    assert known.items == tuple(range(2 + 40, 2 + 40 + MAX_SUPPORT)) and len(known.seen_items) == MAX_SUPPORT + 40


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (Interaction("i0", 6.0), "6.0 is not a label from 1 to 5"),
        (Interaction("i0", 0.5), "is not a label from 1 to 5, or 0"),
        (Interaction("i0", math.nan), "is not a label"),
        (Interaction("i0", -math.inf), "is not a label"),
        (Interaction("none", 6.0), "is not a label"),
        (Interaction("i0", 4.0, math.nan), "nan is not a time"),
        (Interaction("i0", 4.0, math.inf), "inf is not a time"),
    ],
)
def test_wrong_events_are_refused(liking, event, says):
    with pytest.raises(DataError, match=says):
        liking.read_support(EntityRequest(events=[Interaction("i1", 5.0), event]))


def test_a_rating_needs_a_label_and_a_feature_must_be_one(rating):
    with pytest.raises(DataError, match=r"a label is needed.*ratings"):
        rating.read_support(EntityRequest(events=[Interaction("i0")]))
    with pytest.raises(DataError, match=r"no such feature.*age, group"):
        rating.adapt([rating.read_support(EntityRequest({"height": 3}))])


def test_the_digest_changes_exactly_when_the_support_or_the_features_do(liking):
    def digest(events, features=None):
        return liking.read_support(EntityRequest(features or {}, events)).digest

    like, dislike = Interaction("i1", 5.0, 1), Interaction("i2", 2.0, 1)
    base = digest([like])
    for equal in ([like, like], [like, Interaction("none", 5.0)], [like._replace(label=4.0, time=9)]):
        assert digest(equal) == base
    assert digest([like, dislike]) == digest([dislike._replace(label=0.0), like])
    for other in ([], [Interaction("i2", 5.0)], [like, Interaction("i2", 5.0)], [like, dislike], [dislike]):
        assert digest(other) != base
    assert digest([like], {"age": 30}) != base
    features = [{"age": 30}, {"age": 31}, {"group": "a"}, {"group": ["a", "b"]}, {"group": "['a', 'b']"}]
    assert len({digest([like], f) for f in features}) == len(features)
    assert digest([like], {"age": 3, "group": "a"}) == digest([like], {"group": "a", "age": 3})


def test_the_digest_tells_labels_apart_and_not_their_spelling(rating):
    one, same_one, other = (
        rating.read_support(EntityRequest(events=[Interaction("i1", label)])).digest for label in (3, 3.0, 3.5)
    )
    assert one == same_one != other


def test_known_is_what_adapting_needs():
    assert (
        EncodedEntity((2, 3), (1.0, 1.0), frozenset({2, 3}), (), {}).digest
        == EncodedEntity((3, 2), (1.0, 1.0), frozenset(), (), {}).digest
    )
