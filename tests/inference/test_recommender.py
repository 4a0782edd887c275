import math
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_meta.core.dataset import Vocabulary
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.evaluation.cold_start import episodes_at
from recsys_meta.inference.insight.diagnostics import diagnose
from recsys_meta.inference.one_shot import recommend
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EncodedEntity, EntityRequest, Interaction
from recsys_meta.inference.state_codec import dump_state, load_state
from recsys_meta.models.bundle import make_bundle
from recsys_meta.models.factory import build_predictor
from recsys_meta.models.learners import LEARNERS
from recsys_meta.models.learners.ranking.flagship_config import FlagshipConfig
from tests.fixtures import trained_recommenders as served
from tests.fixtures.choice_datasets import choice_world
from tests.fixtures.small_datasets import same
from tests.fixtures.trained_recommenders import answer
from tests.models.learners.cases import case_of


@pytest.fixture(scope="module")
def data():
    return served.world()


@pytest.fixture(scope="module")
def model():
    return served.ranking()


@pytest.fixture(scope="module")
def rating():
    return served.rating()


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
        events = [
            Interaction(str(names["item"][i - 2]), time=float(n))
            for n, i in enumerate(batch.support.rows.item[t].tolist())
        ]
        people.append(EntityRequest(features, events))
    known = [model.read_support(p) for p in people]
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
    assert got.unknown_items == ("none",) and got.support_size == 2 and got.served_by == "adapted"
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
    assert model.catalog.known_item_ids(["i0", "none", "i3"]) == [2, 5]


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
    got = model.lists.top_k(scores, n, exclude=exclude, candidates=candidates)
    assert [s.item for s in got] == [f"i{i - 2}" for i in naive_top(values, n, exclude, candidates)]
    assert scores.tolist() == values


def test_newcomers_of_other_features_or_sizes_do_not_share_a_start():
    """Starts are kept by features and size: whoever came before must not matter."""
    data, learner, train = served.world(), LEARNERS["flagship"](FlagshipConfig(dims=8)), np.arange(40)
    params = learner.init(data, train, torch.Generator().manual_seed(0))
    for key in ("start_by_size", "entity.age.weight"):
        params[key] = torch.randn(params[key].shape, generator=torch.Generator().manual_seed(1))
    bundle = make_bundle(learner, params, data, EventIndex.of(data), train, {})
    people = [
        EntityRequest({"age": age} if age else {}, [Interaction(f"i{n}") for n in range(rows)])
        for age in (None, 20.0, 60.0)
        for rows in (0, 1, 4)
    ]

    def scores(recommender, one):
        return recommender.scores(recommender.adapt([recommender.read_support(one)]))

    used = Recommender(bundle)
    for one in [*people, *people[::-1]]:
        assert torch.equal(scores(used, one), scores(Recommender(bundle), one))


def test_popularity_stands_in(model):
    got = model.lists.top_k(model.catalog.popularity_scores, 5)
    counts = model.bundle.popularity
    assert [s.item for s in got] == [f"i{i - 2}" for i in naive_top(counts.tolist(), 5, (), None)]


# Threads and diagnosis


def test_eight_threads_equal_one(model):
    rng = random.Random(0)
    people = [
        EntityRequest(
            {"age": 20 + i, "group": f"group{i % 4}"}, [Interaction(f"i{j}") for j in rng.sample(range(30), i % 9)]
        )
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
        known = recommender.read_support(EntityRequest(events=[Interaction(f"i{i}", 1.0 + i % 3) for i in items]))
        state = recommender.adapt([known])
        kept = {k: v.clone() for k, v in state.items()}
        got = diagnose(recommender, [known])[0]
        assert got.support_size == 5 and got.steps == 1 and got.gradient_norm > 0
        better.append(got.loss_after < got.loss_before)
        assert same(state, kept) and not any(v.requires_grad for v in state.values())
    assert all(better)
    assert not any(v.requires_grad for v in recommender.body.values())


def test_without_a_support_there_is_nothing_to_diagnose(model):
    known = model.read_support(EntityRequest())
    got = diagnose(model, [known])[0]
    assert (got.support_size, got.steps, got.loss_before, got.loss_after, got.gradient_norm) == (0, 0, 0.0, 0.0, 0.0)


def test_the_gradient_norm_is_that_of_the_loss(model):
    """Against finite differences of the support's loss at the prior."""
    known = model.read_support(EntityRequest(events=[Interaction("i1"), Interaction("i7")]))
    support, learner = model.encoder.support([known]), model.bundle.predictor
    before = learner.adapt(model.body, support.empty())
    total = 0.0
    for i in range(before["z"].shape[1]):
        step = torch.zeros_like(before["z"])
        step[0, i] = 1e-2
        up, down = (float(learner.support_loss(model.body, {"z": before["z"] + s * step}, support)[0]) for s in (1, -1))
        total += ((up - down) / 2e-2) ** 2
    assert diagnose(model, [known])[0].gradient_norm == pytest.approx(math.sqrt(total), rel=0.02)


@pytest.mark.parametrize("name", ["popularity", "itemknn"])
def test_a_baseline_serves_too(data, name):
    made, index = build_predictor(name, {}), EventIndex.of(data)
    served = Recommender(make_bundle(made, made.fit(data, np.arange(60)), data, index, np.arange(60), {}))
    got = answer(served, [Interaction("i4"), Interaction("i9")], 8)
    assert len({s.item for s in got.items}) == 8
    known = served.read_support(EntityRequest(events=[Interaction("i4")]))
    state = served.adapt([known])
    assert same(load_state(dump_state(state), state), state)
    assert math.isfinite(diagnose(served, [known])[0].loss_after)
    assert served.version == ""


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("bundle", ["flagship", "ensemble"])
@pytest.mark.parametrize("size", [2, 3, 5, 16])
def test_in_any_company_a_newcomer_is_the_same_bit_for_bit(size, bundle):
    """A flagship with every memory, and one among baselines: states, their bytes and scores, whoever was worked out at
    the same time and has as many rows; their features are of different lengths, and nobody's start was known."""
    model, other = (Recommender(getattr(served, bundle)()) for _ in range(2))
    assert model.batch_invariant
    rng = random.Random(3)
    known = [model.read_support(newcomer_of(rng, rows=n % 7)) for n in range(112)]
    for rows in range(7):
        alike = known[rows::7]
        for start in range(0, len(alike), size):
            party = alike[start : start + size]
            states, raw = other.adapt_and_serialize(party)
            scores = other.scores(states)
            for row, one in enumerate(party):
                alone, (content,) = model.adapt_and_serialize([one])
                assert raw[row] == content and torch.equal(scores[row], model.scores(alone)[0])
                assert all(torch.equal(leaf[row : row + 1], alone[name]) for name, leaf in states.items())


def newcomer_of(rng, rows):
    features = {"age": rng.uniform(10, 60), "group": [f"group{rng.randrange(5)}" for _ in range(rng.randint(1, 60))]}
    return EntityRequest(features, [Interaction(f"i{i}") for i in rng.sample(range(80), rows)])


def test_a_model_of_too_few_items_to_try_is_not_ranked_together(data):
    tiny = served.flagship()
    names = {**tiny.vocab.values, "item": tiny.vocab.values["item"][:3]}
    few = Recommender(replace(tiny, vocab=Vocabulary(names)))
    assert not few.batch_invariant


# Choices out of a catalogue of the entity's own


def walk(count):
    """So many visits of five actors to nine places, most of them to where the actor
    was last."""
    place = [(n % 5 + (n // 15) * (n % 3)) % 9 for n in range(count)]
    return EntityRequest(
        events=[
            Interaction(f"p{p}", None, float(n), {"lat": 40 + p / 100, "lon": -80.0}, f"a{n % 5}")
            for n, p in enumerate(place)
        ]
    )


@pytest.fixture(scope="module", params=["choice", "pooled", "din", "din-still", "local-popularity"])
def chooser(request):
    """A model of choices with parameters that are not as fresh, but do not know what is to come."""
    settings = {"pooled": {"aware": False, "split": False, "adapts": False}, "din": {"adapts": "head", "rate": 0.01}}
    data, train = choice_world(entities=16), np.arange(12)
    index = EventIndex.of(data)
    name = {"pooled": "choice", "din-still": "din"}.get(request.param, request.param)
    made = build_predictor(name, settings.get(request.param, {}))
    if name not in LEARNERS:
        return Recommender(make_bundle(made, made.fit(data, train), data, index, train, {}))
    generator = torch.Generator().manual_seed(1)
    params = made.init(data, train, generator)
    noise = {k: 0.05 * torch.randn(v.shape, generator=generator) for k, v in params.items() if not made.is_frozen(k)}
    params = {k: v + noise.get(k, 0.0) for k, v in params.items()}
    return Recommender(make_bundle(made, params, data, index, train, {}))


def test_the_loss_before_adapting_is_of_the_support_in_its_own_catalogue(chooser):
    """Against the state that the same catalogue has without a row."""
    known = chooser.read_support(walk(60))
    support, predictor = chooser.encoder.support([known]), chooser.bundle.predictor
    bare = EncodedEntity((), (), frozenset(), (), known.features, catalog=known.catalog)
    start = chooser.adapt([bare])
    got = diagnose(chooser, [known])[0]
    wanted = predictor.support_loss(chooser.body, start, support)
    assert got.loss_before == pytest.approx(float(wanted[0]), rel=1e-5)
    assert 0.1 < got.loss_before < 20 and 0 < got.loss_after < 20
    assert abs(got.loss_before - got.loss_after) > 1e-3 and 0 < got.gradient_norm < 1e4
    assert got.support_size == 60


def test_many_are_diagnosed_as_each_alone(chooser):
    many = [chooser.read_support(walk(n)) for n in (60, 0, 20)]
    for one, got in zip(many, diagnose(chooser, many), strict=True):
        (alone,) = diagnose(chooser, [one])
        assert got.loss_before == pytest.approx(alone.loss_before, rel=1e-4, abs=1e-6)
        assert got.loss_after == pytest.approx(alone.loss_after, rel=1e-4, abs=1e-6)
        assert (got.loss_before == 0) == (not one.items)


@pytest.mark.parametrize(("name", "reads_order"), [("episodic-memory", True), ("selector", False)])
def test_events_stay_in_their_order_for_a_learner_that_reads_it(name, reads_order):
    case = case_of(name, "ranking")
    bundle = make_bundle(case.learner, case.params, case.data, case.index, case.split.train, {})
    events = [Interaction(item) for item in case.data.vocab.values["item"][:8]]
    there, back = (recommend(Recommender(bundle), EntityRequest(events=e), 5) for e in (events, events[::-1]))
    assert (there.items != back.items) == reads_order
