"""SASRec reads the order of a support: it learns transitions, never looks ahead, and is served in true order."""

import random

import numpy as np
import pytest
import torch

from recsys_meta.core.types import FIRST, Interactions, Support
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.splits import split_by_seed
from recsys_meta.evaluation import baseline_tuning
from recsys_meta.evaluation.baseline_tuning import fit_tuned
from recsys_meta.evaluation.cold_start import cold_start
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction
from recsys_meta.models.baselines import make_per_shot
from recsys_meta.models.baselines.counting.popularity import ItemPopularity
from recsys_meta.models.baselines.sequence import next_item_training
from recsys_meta.models.baselines.sequence.causal_transformer import encode_sequences, init_transformer
from recsys_meta.models.baselines.sequence.next_item_rows import NextItemRows
from recsys_meta.models.baselines.sequence.sasrec import SasRec, latest_items
from recsys_meta.models.bundle import load_bundle, make_bundle, save_bundle
from recsys_meta.models.ensemble.ensemble import EnsembleConfig, EnsembleMember, make_ensemble, member_params
from tests.fixtures.simulated_datasets import dataset
from tests.models.baselines.cases import rows, single_task

ITEMS, ROWS = 24, 8
TRAIN = np.arange(160)
SMALL = SasRec(dims=16, blocks=1, negatives=16, length=12, steps=300, batch_rows=256, rate=5e-3, popularity=0.0)


def cycle_dataset(entities=200, timed=True):
    """Each entity starts anywhere in one cycle through all items, and follows it: the last item tells the next one."""
    rng = np.random.default_rng(0)
    cycle = rng.permutation(ITEMS)
    start = rng.integers(0, ITEMS, entities)
    item = [cycle[(s + np.arange(ROWS)) % ITEMS] for s in start]
    time = [np.arange(ROWS) for _ in item] if timed else None
    return dataset("cycle", "ranking", item, [np.ones(ROWS)] * entities, time=time), cycle + FIRST


@pytest.fixture(scope="module")
def world():
    return cycle_dataset()


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "truncated"])
def fitted(world, request):
    predictor = SMALL.model_copy(update={"truncate": request.param})
    params = predictor.fit(world[0], TRAIN)
    return predictor, params, predictor.body(params)


def ranked(predictor, body, support):
    return predictor.rank(body, predictor.adapt(body, support))


def support_of(items):
    return Support({}, rows(items))


def test_the_next_item_is_learned_from_the_order(world, fitted):
    data, _ = world
    index, test = EventIndex.of(data), np.arange(160, 200)
    predictor, params, body = fitted
    support, query = index.draw(torch.as_tensor(test), torch.full((40,), 4))
    best = ranked(predictor, body, Support({}, support)).argmax(1)
    assert (best == query.item[:, 0]).float().mean() > 0.9
    curve = cold_start(predictor, params, data, index, test, shots=[1, 3])
    popular = cold_start(ItemPopularity(), ItemPopularity().fit(data, TRAIN), data, index, test, shots=[1, 3])
    for shots in (1, 3):
        assert curve.interval(shots, "mrr").value > max(0.9, popular.interval(shots, "mrr").value + 0.3)


def test_another_order_is_another_list(world, fitted):
    _, cycle = world
    predictor, _, body = fitted
    forward = cycle[:4].tolist()
    scores = ranked(predictor, body, support_of([forward, forward[::-1]]))
    assert scores[0].argmax() == cycle[4] and scores[1].argmax() != cycle[4]


def test_rows_without_an_order_are_learned_in_none():
    data, cycle = cycle_dataset(timed=False)
    body = SMALL.body(SMALL.fit(data, TRAIN))
    starts = [[cycle[(s + i) % ITEMS] for i in range(3)] for s in range(ITEMS)]
    best = ranked(SMALL, body, support_of(starts)).argmax(1)
    successors = torch.tensor([cycle[(s + 3) % ITEMS] for s in range(ITEMS)])
    # Neighbours in the cycle are known, on both sides: which of them comes next is not.
    assert (best == successors).float().mean() < 0.8


def test_tuning_trains_in_the_order_in_which_supports_are_taken(world, monkeypatch):
    data, _ = world
    index = EventIndex.of(data)
    split = split_by_seed(index.entities_with(2), 0)
    monkeypatch.setattr(baseline_tuning, "make_baseline", lambda _: lambda objective: SMALL)
    monkeypatch.setattr(SasRec, "search_space", lambda _: {})
    in_time, by_default, at_random = (
        fit_tuned("sasrec", data, index, split, shots=(3,), order=order) for order in ("time", None, "random")
    )
    assert torch.equal(in_time.params["0/items"], by_default.params["0/items"])
    assert not torch.allclose(in_time.params["0/items"], at_random.params["0/items"], atol=1e-2)


def test_no_state_depends_on_later_rows():
    generator = torch.Generator().manual_seed(0)
    params = init_transformer(20, 8, 2, 10, generator)
    # Weights large enough for a leak to show.
    params = {k: v + torch.randn(v.shape, generator=generator) * (k != "items") for k, v in params.items()}
    item = torch.arange(FIRST, FIRST + 6)[None]
    before = encode_sequences(params, item, 2)
    for changed in range(1, 6):
        other = item.clone()
        other[0, changed] = 19
        after = encode_sequences(params, other, 2)
        assert torch.equal(after[:, :changed], before[:, :changed])
        assert not torch.allclose(after[:, changed:], before[:, changed:], atol=1e-3)
    leaf = params["items"].clone().requires_grad_()
    weight = torch.randn(8, generator=generator)
    (encode_sequences({**params, "items": leaf}, item, 2)[0, 2] @ weight).backward()
    moved = leaf.grad.abs().sum(1)[FIRST : FIRST + 6] > 1e-8
    assert moved.tolist() == [True, True, True, False, False, False]


def test_a_state_does_not_depend_on_who_else_is_in_the_batch(fitted):
    predictor, _, body = fitted
    generator = np.random.default_rng(0)
    support = support_of([(generator.permutation(ITEMS)[:n] + FIRST).tolist() for n in range(20)])
    together = predictor.adapt(body, support)["vector"]
    assert together.dtype == torch.float32 and together.shape == (20, SMALL.dims)
    for t in range(20):
        alone = predictor.adapt(body, single_task(support, t))["vector"][0]
        torch.testing.assert_close(alone, together[t], rtol=1e-6, atol=1e-7)
    assert predictor.adapt(body, support.of(torch.arange(0)))["vector"].shape == (0, SMALL.dims)


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_nothing_known_is_popularity(world, fitted, weight):
    predictor, _, body = fitted
    predictor = predictor.model_copy(update={"popularity": weight})
    scores = ranked(predictor, body, support_of([[], [1], [1, 1]]))
    popular = ItemPopularity().fit(world[0], TRAIN)["scores"][FIRST:]
    assert popular.unique().numel() > 3
    gap = popular[:, None] - popular[None, :] > 1e-4
    for own in scores[:, FIRST:]:
        assert ((own[:, None] - own[None, :]) > 0)[gap].all()
    assert torch.equal(ranked(predictor, body, support_of([[]]))[0], scores[0])


def test_the_last_known_items_are_read_each_once():
    item = torch.tensor([[2, 3, 2, 1, 4, 9], [9, 5, 6, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    mask = torch.tensor([[True] * 5 + [False], [False, True, True] + [False] * 3, [False] * 6])
    support = Interactions(item, torch.ones(item.shape), mask)
    items, count = latest_items(support, 4)
    assert items.tolist() == [[3, 2, 4, 0], [5, 6, 0, 0], [0, 0, 0, 0]] and count.tolist() == [3, 2, 0]
    items, count = latest_items(support, 2)
    assert items.tolist() == [[2, 4], [5, 6], [0, 0]] and count.tolist() == [2, 2, 0]


@pytest.mark.parametrize("mean_rows", [None, 2])
def test_every_transition_is_in_one_batch_and_none_between_entities(mean_rows):
    counts = [1, 4, 9, 2]
    entity = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
    item = torch.arange(len(entity)) + FIRST
    pairs = NextItemRows.of(entity, item)
    assert len(pairs) == sum(n - 1 for n in counts)
    batches = list(pairs.batches(3, 4, torch.Generator().manual_seed(0), mean_rows))
    assert len(batches) > 1 and max(b.item.shape[1] for b in batches) <= 3
    transitions = [
        (a, b) for batch in batches for a, b in zip(*(column[batch.mask].tolist() for column in batch[:2]), strict=True)
    ]
    assert sorted(transitions) == sorted(zip(pairs.item.tolist(), pairs.target.tolist(), strict=True))
    assert all(b == a + 1 and entity[a - FIRST] == entity[b - FIRST] for a, b in transitions)
    inner = torch.cat([(b.item[:, 1:] == b.target[:, :-1])[b.mask[:, 1:]] for b in batches])
    assert inner.all(), "within a piece an item is its predecessor's target"
    shuffled = NextItemRows.of(entity, item, torch.Generator().manual_seed(1))
    assert torch.equal(shuffled.entity, pairs.entity) and not torch.equal(shuffled.item, pairs.item)
    assert (entity[shuffled.item - FIRST] == shuffled.entity).all()


def test_a_seed_fixes_all_and_another_changes_it(world, fitted):
    predictor, params, _ = fitted
    again = predictor.fit(world[0], TRAIN)
    other = predictor.model_copy(update={"seed": 1}).fit(world[0], TRAIN)
    assert all(torch.equal(again[k], params[k]) for k in params)
    assert not torch.equal(other["items"], params["items"])


def test_training_stops_when_held_back_entities_gain_no_more(monkeypatch):
    rng = np.random.default_rng(0)
    item = [rng.permutation(ITEMS)[:ROWS] for _ in range(100)]
    noise = dataset("noise", "ranking", item, [np.ones(ROWS)] * 100, time=[np.arange(ROWS)] * 100)
    losses, judge = [], next_item_training.validation_loss

    def record(config, params, batches):
        losses.append((judge(config, params, batches), params["items"].detach().clone()))
        return losses[-1][0]

    monkeypatch.setattr(next_item_training, "validation_loss", record)
    params = SMALL.model_copy(update={"steps": 10_000}).fit(noise, np.arange(100))
    values = [loss for loss, _ in losses]
    chosen = next(i for i, (_, items) in enumerate(losses) if torch.equal(items, params["items"]))
    assert len(values) == chosen + 1 + next_item_training.PATIENCE < 10_000 // next_item_training.MIN_CHECK
    assert values[chosen] < min(values) + next_item_training.MIN_GAIN
    assert values[-1] > values[chosen], "noise is learned by heart, which the entities held back tell"


def test_a_bundle_is_served_in_true_order(world, fitted, tmp_path):
    data, cycle = world
    predictor, params, _ = fitted
    tuned = make_per_shot("sasrec", [predictor], [0, 1], [0, 0])
    index = EventIndex.of(data)
    for made, values in ((predictor, params), (tuned, {f"0/{k}": v for k, v in params.items()})):
        bundle = make_bundle(made, values, data, index, TRAIN, {})
        recommender = Recommender(load_bundle(save_bundle(bundle, tmp_path)) if made is predictor else bundle)
        names = [data.vocab.value("item", int(i)) for i in cycle[:5]]
        expected = ranked(predictor, predictor.body(params), support_of([cycle[:5].tolist()]))[0]

        def read(events, recommender=recommender):
            return recommender.read_support(EntityRequest(events=events))

        told = [Interaction(name, time=float(t)) for t, name in enumerate(names)]
        entity = read(told)
        scores = recommender.score_catalog(recommender.adapt([entity]))
        torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
        assert scores[FIRST:].argmax() + FIRST == cycle[5]
        assert read(random.Random(0).sample(told, 5)) == entity, "times tell the order"
        assert read([Interaction(name) for name in names]).items == entity.items, "else the order of the request does"
        repeated = read([Interaction(names[1]), *[Interaction(n) for n in (names[0], names[1])]])
        assert repeated.items == tuple(cycle[:2].tolist()), "the last event on an item is its place"
        backwards = read([Interaction(name) for name in names[::-1]])
        assert backwards.digest != entity.digest and backwards.items == entity.items[::-1]
        other = recommender.score_catalog(recommender.adapt([backwards]))
        assert other[FIRST:].argmax() + FIRST != cycle[5]


def test_an_ensemble_is_served_in_the_order_that_a_member_reads(world, fitted):
    data, cycle = world
    predictor, params, _ = fitted
    popularity = ItemPopularity()
    members = tuple(EnsembleMember(predictor=m.name, config=m.model_dump()) for m in (popularity, predictor))
    ensemble = make_ensemble(
        EnsembleConfig(members=members, shots=(1,), weights=((0.1, 1.0, 0.0, 0.0),)), (popularity, predictor)
    )
    values = member_params([popularity.fit(data, TRAIN), params])
    recommender = Recommender(make_bundle(ensemble, values, data, EventIndex.of(data), TRAIN, {}))
    told = [Interaction(data.vocab.value("item", int(i)), time=float(t)) for t, i in enumerate(cycle[:5])]
    for events, following in ((told, cycle[5]), (told[:3][::-1], cycle[3])):
        entity = recommender.read_support(EntityRequest(events=events))
        assert recommender.score_catalog(recommender.adapt([entity]))[FIRST:].argmax() + FIRST == following
    assert not make_ensemble(
        EnsembleConfig(members=members[:1], shots=(1,), weights=((1.0, 0.0),)), (popularity,)
    ).reads_order
