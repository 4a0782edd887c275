import math
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_meta.bundle import make_bundle, predictor_of
from recsys_meta.episodes import EventIndex
from recsys_meta.errors import DataError
from recsys_meta.evaluate import episodes_at
from recsys_meta.recommend import (
    MAX_SUPPORT,
    Interaction,
    Known,
    Newcomer,
    Recommender,
    dump_state,
    load_state,
    recommend,
)
from recsys_meta.train import fit, start
from tests.small import recipe, same, tiny
from tests.worlds import ranking_world, rating_world


def trained(data, learner):
    index, train = EventIndex.of(data), np.arange(60)
    run = start(learner, recipe(epochs=6, tasks=20, patience=99), data, index, train, 0)
    list(fit(run, lambda _: 0.0))
    titles = {"i3": "Three"}
    return replace(make_bundle(learner, run.chosen(), data, index, train, {}), titles=titles, version="v")


@pytest.fixture(scope="module")
def data():
    return ranking_world(entities=80, items=30, rows=10)


@pytest.fixture(scope="module")
def model(data):
    return Recommender(trained(data, tiny(dims=8)))


@pytest.fixture(scope="module")
def liking(model):
    """The same model where labels from 1 to 5 are given and 4 is a like."""
    schema = model.bundle.schema.model_copy(update={"label": "stars", "label_range": (1.0, 5.0), "positive": 4.0})
    return Recommender(replace(model.bundle, schema=schema))


@pytest.fixture(scope="module")
def rating():
    world = rating_world(entities=80, items=30, rows=10)
    schema = world.schema.model_copy(update={"label_range": (-20.0, 20.0)})
    return Recommender(trained(replace(world, schema=schema), tiny(objective="rating", rate=0.1)))


EVENTS = st.lists(
    st.builds(
        Interaction,
        item=st.sampled_from(["i0", "i1", "i2", "i3", "none", "other"]),
        label=st.one_of(st.none(), st.sampled_from([1.0, 3.0, 4.0, 5.0])),
        time=st.one_of(st.none(), st.integers(0, 3).map(float)),
    ),
    max_size=8,
)


def answer(recommender, events, n=10, **more):
    return recommend(recommender, Newcomer(events=events), n, **more)


# What is known of a newcomer


@given(events=EVENTS, seed=st.integers(0, 99))
def test_the_order_of_events_does_not_matter(liking, events, seed):
    mixed = random.Random(seed).sample(events, len(events))
    one, other = (liking.know(Newcomer(events=e)) for e in (events, mixed))
    assert one == other and one.digest == other.digest


@given(events=EVENTS)
def test_knowing_equals_its_rules_one_by_one(liking, events):
    """The last word on an item counts (the higher of two at once, one without a time is last); likes are support."""
    known = liking.know(Newcomer(events=events))
    items = {e.item for e in events}
    assert set(known.unknown) == items & {"none", "other"} and len(known.unknown) == len(set(known.unknown))
    here = sorted(items - {"none", "other"})
    assert known.seen == {int(i[1:]) + 2 for i in here}
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
    events = [Interaction("i4", 1.0, 10), Interaction("i5", 2.0, 5), Interaction("i4", 3.0, 20), Interaction("i4", 9, 3)]
    known = rating.know(Newcomer(events=events))
    assert dict(zip(known.items, known.labels, strict=True)) == {6: 3.0, 7: 2.0}
    changed = [Interaction("i4", 5.0, 1), Interaction("i4", 2.0, 2)]
    assert liking.know(Newcomer(events=changed)).items == (), "taken back"
    assert liking.know(Newcomer(events=changed[::-1])).seen == {6}
    assert liking.know(Newcomer(events=[Interaction("i4", 2.0, 1), Interaction("i4", 5.0, 2)])).items == (6,)


def test_labels_below_positive_are_seen_but_no_support(liking):
    got = answer(liking, [Interaction("i4", 3.0), Interaction("i5", 4.0)], n=99)
    assert got.support_size == 1
    assert not {"i4", "i5"} & {s.item for s in got.items} and len(got.items) == 28


def test_only_the_most_recent_are_support(model, data):
    names = [f"x{i}" for i in range(MAX_SUPPORT + 40)]
    values = {**model.bundle.vocab.values, "item": type(data.vocab.values["item"])(names, dtype="str")}
    big = Recommender.__new__(Recommender)
    big.bundle = replace(model.bundle, vocab=replace(model.bundle.vocab, values=values))
    known = Recommender.know(big, Newcomer(events=[Interaction(n, time=float(i)) for i, n in enumerate(names)]))
    assert known.items == tuple(range(2 + 40, 2 + 40 + MAX_SUPPORT)) and len(known.seen) == MAX_SUPPORT + 40


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (Interaction("i0", 6.0), "6.0 is not a label from 1 to 5"),
        (Interaction("i0", 0.0), "is not a label"),
        (Interaction("i0", math.nan), "is not a label"),
        (Interaction("i0", -math.inf), "is not a label"),
        (Interaction("none", 6.0), "is not a label"),
        (Interaction("i0", 4.0, math.nan), "nan is not a time"),
        (Interaction("i0", 4.0, math.inf), "inf is not a time"),
    ],
)
def test_wrong_events_are_refused(liking, event, says):
    with pytest.raises(DataError, match=says):
        liking.know(Newcomer(events=[Interaction("i1", 5.0), event]))


def test_a_rating_needs_a_label_and_a_feature_must_be_one(rating):
    with pytest.raises(DataError, match="a label is needed.*ratings"):
        rating.know(Newcomer(events=[Interaction("i0")]))
    with pytest.raises(DataError, match="no such feature.*age, group"):
        rating.adapt([rating.know(Newcomer({"height": 3}))])


# The digest


def test_the_digest_changes_exactly_when_the_support_or_the_features_do(liking):
    def digest(events, features=None):
        return liking.know(Newcomer(features or {}, events)).digest

    like, dislike = Interaction("i1", 5.0, 1), Interaction("i2", 2.0, 1)
    base = digest([like])
    for equal in ([like, like], [like, dislike], [like, Interaction("none", 5.0)], [replace(like, label=4.0, time=9)]):
        assert digest(equal) == base
    for other in ([], [Interaction("i2", 5.0)], [like, Interaction("i2", 5.0)]):
        assert digest(other) != base
    assert digest([like], {"age": 30}) != base
    features = [{"age": 30}, {"age": 31}, {"group": "a"}, {"group": ["a", "b"]}, {"group": "['a', 'b']"}]
    assert len({digest([like], f) for f in features}) == len(features)
    assert digest([like], {"age": 3, "group": "a"}) == digest([like], {"group": "a", "age": 3})


def test_the_digest_tells_labels_apart_and_not_their_spelling(rating):
    one, same_one, other = (
        rating.know(Newcomer(events=[Interaction("i1", label)])).digest for label in (3, 3.0, 3.5)
    )
    assert one == same_one != other


# Lists


def test_the_same_answer_as_offline(model, data):
    """One adapt: a newcomer told as raw events and features scores as the evaluation scores it."""
    index = EventIndex.of(data)
    batch = episodes_at(data, index, np.arange(60, 80), 4)
    learner, body = model.bundle.predictor, model.bundle.predictor.body(model.bundle.params)
    wanted = learner.rank(body, learner.adapt(body, batch.support))
    names = data.vocab.values
    people = []
    for t, e in enumerate(range(60, 80)):
        group = data.entities["group"]
        ids = group.values[group.indptr[e] : group.indptr[e + 1]]
        age = float(data.entities["age"].values[e])
        features = {"group": [str(names["entity.group"][i - 2]) for i in ids], "age": age}
        events = [Interaction(str(names["item"][i - 2]), time=float(n)) for n, i in enumerate(batch.support.rows.item[t].tolist())]
        people.append(Newcomer(features, events))
    known = [model.know(p) for p in people]
    together = model.scores(model.adapt(known))
    torch.testing.assert_close(together, wanted, rtol=1e-5, atol=1e-5)
    one_by_one = torch.cat([model.scores(model.adapt([k])) for k in known])
    torch.testing.assert_close(one_by_one, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [0, 1, 7, 27, 28, 30, 1000])
def test_exactly_n_different_items_best_first_without_those_seen(model, n):
    got = answer(model, [Interaction("i4"), Interaction("i9"), Interaction("none")], n)
    items = [s.item for s in got.items]
    assert len(items) == len(set(items)) == min(n, 28)
    assert not {"i4", "i9", "none"} & set(items)
    assert [s.score for s in got.items] == sorted((s.score for s in got.items), reverse=True)
    assert got.unknown == ("none",) and got.support_size == 2 and got.served_by == "adapted"
    assert {s.item: s.title for s in got.items}.get("i3") in (None, "Three")
    whole = answer(model, [Interaction("i4"), Interaction("i9")], 28).items
    assert [s.item for s in whole][:n] == items


def test_before_the_first_event_the_prior_serves(model):
    got = answer(model, [])
    assert got.served_by == "prior" and got.support_size == 0 and len(got.items) == 10 and got.milliseconds > 0
    assert answer(model, [Interaction("none")]).served_by == "prior"
    assert [s.item for s in answer(model, [Interaction("i4")], 30).items] != [s.item for s in got.items]


def test_candidates_restrict_and_unknown_ones_fall_out(model):
    got = answer(model, [Interaction("i4")], 10, candidates=["i1", "i2", "i4", "none", "i1"])
    assert {s.item for s in got.items} == {"i1", "i2"} and len(got.items) == 2
    assert answer(model, [], candidates=[]).items == [] == answer(model, [], candidates=["none"]).items
    free = [s.item for s in answer(model, [Interaction("i4")], 30).items]
    assert [s.item for s in got.items] == [i for i in free if i in ("i1", "i2")]
    assert model.ids(["i0", "none", "i3"]) == [2, 5]


def naive_top(values, n, exclude, candidates):
    ids = [i for i in range(2, len(values)) if i not in exclude and (candidates is None or i in candidates)]
    return sorted(ids, key=lambda i: (-values[i], i))[:n]


@settings(max_examples=150)
@given(
    values=st.lists(st.sampled_from([-1.5, 0.0, 2.0]), min_size=32, max_size=32),
    n=st.integers(0, 40),
    exclude=st.sets(st.integers(2, 31)),
    candidates=st.one_of(st.none(), st.sets(st.integers(0, 31))),
)
def test_top_equals_sorting_with_ties_by_id(model, values, n, exclude, candidates):
    scores = torch.tensor(values)
    got = model.top(scores, n, exclude=exclude, candidates=candidates)
    assert [s.item for s in got] == [f"i{i - 2}" for i in naive_top(values, n, exclude, candidates)]
    assert scores.tolist() == values


def test_popularity_stands_in(model):
    got = model.top(model.popular, 5)
    counts = model.bundle.popularity
    assert [s.item for s in got] == [f"i{i - 2}" for i in naive_top(counts.tolist(), 5, (), None)]


# States


@given(events=EVENTS)
def test_a_state_survives_the_wire(liking, events):
    state = liking.adapt([liking.know(Newcomer(events=events))])
    back = load_state(dump_state(state), state)
    assert same(back, state)


def test_a_slice_of_many_states_is_no_bigger_than_one(model):
    known = [model.know(Newcomer(events=[Interaction(f"i{i}")])) for i in range(20)]
    many = model.adapt(known)
    one = {k: v[3:4] for k, v in many.items()}
    raw = dump_state({**one, "twin": one["z"], "turned": one["z"].T})
    assert len(raw) < 1000
    assert torch.equal(load_state(raw)["z"], one["z"]) and torch.equal(load_state(raw)["turned"], one["z"].T)


@given(st.binary(max_size=80))
def test_garbage_is_no_state(content):
    assert load_state(content) is None


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_state_is_none_or_fits(model, data):
    """Flipped or cut bytes never raise; what still reads has the same leaves, types and dimensions."""
    state = model.adapt([model.know(Newcomer(events=[Interaction("i1")]))])
    raw = bytearray(dump_state(state))
    at = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        raw = raw[:at]
    else:
        raw[at] ^= data.draw(st.integers(1, 255))
    back = load_state(bytes(raw), state)
    if back is not None:
        assert {k: (v.dtype, v.dim()) for k, v in back.items()} == {k: (v.dtype, v.dim()) for k, v in state.items()}


def test_a_state_of_another_model_does_not_fit(model):
    state = model.adapt([model.know(Newcomer())])
    assert load_state(dump_state({"other": state["z"]}), state) is None
    assert load_state(dump_state({"z": state["z"].double()}), state) is None
    assert load_state(dump_state({"z": state["z"][0]}), state) is None


# Threads and diagnosis


def test_eight_threads_equal_one(model):
    rng = random.Random(0)
    people = [
        Newcomer({"age": 20 + i, "group": f"group{i % 4}"}, [Interaction(f"i{j}") for j in rng.sample(range(30), i % 9)])
        for i in range(200)
    ]
    alone = [recommend(model, p, 10).items for p in people]
    with ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(lambda p: recommend(model, p, 10).items, people * 3))
    assert threaded == alone * 3


@pytest.mark.parametrize("kind", ["model", "rating"])
def test_adapting_lowers_the_loss_of_the_support(kind, request):
    recommender = request.getfixturevalue(kind)
    better = []
    for seed in range(10):
        items = random.Random(seed).sample(range(30), 5)
        known = recommender.know(Newcomer(events=[Interaction(f"i{i}", 1.0 + i % 3) for i in items]))
        state = recommender.adapt([known])
        kept = {k: v.clone() for k, v in state.items()}
        got = recommender.diagnose(known, state)
        assert got.support_size == 5 and got.steps == 1 and got.gradient_norm > 0
        better.append(got.loss_after < got.loss_before)
        assert same(state, kept) and not any(v.requires_grad for v in state.values())
    assert all(better)
    assert not any(v.requires_grad for v in recommender.body.values())


def test_without_a_support_there_is_nothing_to_diagnose(model):
    known = model.know(Newcomer())
    got = model.diagnose(known, model.adapt([known]))
    assert (got.support_size, got.steps, got.loss_before, got.loss_after, got.gradient_norm) == (0, 0, 0.0, 0.0, 0.0)


def test_the_gradient_norm_is_that_of_the_loss(model):
    """Against finite differences of the support's loss at the prior."""
    known = model.know(Newcomer(events=[Interaction("i1"), Interaction("i7")]))
    support, learner = model.support([known]), model.bundle.predictor
    before = learner.adapt(model.body, support.empty())
    total = 0.0
    for i in range(before["z"].shape[1]):
        step = torch.zeros_like(before["z"])
        step[0, i] = 1e-2
        up, down = (float(learner.support_loss(model.body, {"z": before["z"] + s * step}, support)[0]) for s in (1, -1))
        total += ((up - down) / 2e-2) ** 2
    assert model.diagnose(known, model.adapt([known])).gradient_norm == pytest.approx(math.sqrt(total), rel=0.02)


@pytest.mark.parametrize("name", ["popularity", "itemknn"])
def test_a_baseline_serves_too(data, name):
    made, index = predictor_of(name, {}), EventIndex.of(data)
    served = Recommender(make_bundle(made, made.fit(data, np.arange(60)), data, index, np.arange(60), {}))
    got = answer(served, [Interaction("i4"), Interaction("i9")], 8)
    assert len({s.item for s in got.items}) == 8
    known = served.know(Newcomer(events=[Interaction("i4")]))
    state = served.adapt([known])
    assert same(load_state(dump_state(state), state), state)
    assert math.isfinite(served.diagnose(known, state).loss_after)
    assert served.version == ""


def test_known_is_what_adapting_needs():
    assert Known((2, 3), (1.0, 1.0), frozenset({2, 3}), (), {}).digest == Known((3, 2), (1.0, 1.0), frozenset(), (), {}).digest
