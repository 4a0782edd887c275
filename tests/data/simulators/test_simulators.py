"""The simulator: its truth is the best ranking there is, and adapting to it is worth while."""

import time

import numpy as np
import pytest
import torch

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FIRST
from recsys_meta.data import prepare, prepare_named, simulate_ads, simulate_cities, simulate_users
from recsys_meta.episodes.event_index import EventIndex

MAKERS = {"simulated-users": simulate_users, "simulated-ads": simulate_ads, "simulated-cities": simulate_cities}


@pytest.fixture(scope="module", params=MAKERS)
def simulation(request, tmp_path_factory):
    dataset = MAKERS[request.param](seed=3)
    return request.param, dataset, prepare(dataset.tables, tmp_path_factory.mktemp("s") / "out")


def aligned(data, truth):
    """Rows of the truth for the prepared entities and items."""
    entities = np.searchsorted(truth.entity_ids, np.array(list(data.vocab.values["entity"])))
    items = np.searchsorted(truth.item_ids, np.array(list(data.vocab.values["item"])))
    return entities, items


def test_it_is_what_its_schema_says(simulation):
    name, dataset, data = simulation
    assert data.schema.name == name
    assert data.schema.exact_time
    assert data.about["rows_rejected"] == {}
    assert data.events.entity_count == len(dataset.truth.entity_ids)
    assert data.catalogue - FIRST > (0.5 if name == "simulated-cities" else 0.9) * len(dataset.truth.item_ids)
    assert data.events.counts.min() >= 10
    for a, b in zip(data.events.indptr[:20], data.events.indptr[1:21], strict=True):
        gap = np.diff(np.asarray(data.events.time[a:b]))
        assert (gap >= 0).all() if name == "simulated-cities" else (gap > 0).all(), "times are exact and distinct"
        if name == "simulated-users":
            assert len(set(data.events.item[a:b].tolist())) == b - a
    for table in (data.entities, data.items):
        assert table
        assert all(len(c.values) for c in table.values())


def recall(scores, data, n=20):
    """Share of the n best items by score that were chosen, over what could have been, mean over entities."""
    best = np.argsort(-scores, axis=1)[:, :n]
    hits = []
    for e, (a, b) in enumerate(zip(data.events.indptr[:-1], data.events.indptr[1:], strict=True)):
        chosen = np.asarray(data.events.item[a:b]) - FIRST
        hits.append(np.isin(best[e], chosen).sum() / min(n, b - a))
    return float(np.mean(hits))


def test_the_truth_beats_popularity_and_taste_matters(tmp_path):
    dataset = simulate_users(seed=1)
    data, truth = prepare(dataset.tables, tmp_path / "out"), dataset.truth
    entities, items = aligned(data, truth)
    utility = truth.utility(entities)[:, items]
    popular = np.tile(np.bincount(data.events.item, minlength=data.catalogue)[FIRST:], (len(entities), 1))
    others = utility[np.roll(np.arange(len(entities)), 1)]
    oracle, crowd, stranger = (recall(s, data) for s in (utility, popular, others))
    assert oracle > 1.3 * crowd
    assert oracle > 1.3 * stranger, "somebody else's taste must not do as well"


def context(data, name):
    """The values of a context field as numbers, row by row."""
    return np.array(data.vocab.values[f"context.{name}"], int)[np.asarray(data.events.context[name]) - FIRST]


def log_loss(p, y):
    return -(y * np.log(p) + (1 - y) * np.log1p(-p)).mean()


def test_the_truth_of_clicks_is_calibrated_and_informative(tmp_path):
    dataset = simulate_ads(seed=1)
    data, truth = prepare(dataset.tables, tmp_path / "out"), dataset.truth
    entities, items = aligned(data, truth)
    entity = np.repeat(entities, data.events.counts)
    item, y = items[np.asarray(data.events.item) - FIRST], np.asarray(data.events.label)
    position, hour = context(data, "position"), context(data, "hour")
    p = truth.click_probability(entity, item, position, hour)
    assert abs(p.mean() - y.mean()) < 0.01
    high = p > np.quantile(p, 0.9)
    assert abs(p[high].mean() - y[high].mean()) < 0.03
    for value in range(1, 9):
        here = position == value
        assert abs(p[here].mean() - y[here].mean()) < 0.02, "known at every position"
    rate = y.mean()
    assert 0.05 < rate < 0.4
    blind = truth.probability(np.arange(len(truth.entity_ids)))[entity, item]
    only_place = np.array([y[position == v].mean() for v in range(1, 9)])[position - 1]
    losses = [log_loss(q, y) for q in (p, blind, only_place, np.full(len(y), rate))]
    assert losses[0] < 0.95 * losses[1], "the context matters"
    assert losses[0] < 0.95 * losses[2], "and it is not all"
    assert losses[1] < 0.95 * losses[3]


def test_the_mean_chance_is_that_over_all_contexts():
    truth = simulate_ads(ads=20, users=30, events=400, seed=0).truth
    ad, user, position, hour = (g.ravel() for g in np.meshgrid([3], [7], range(1, 9), range(24), indexing="ij"))
    assert truth.probability(np.array([3]))[0, 7] == pytest.approx(
        truth.click_probability(ad, user, position, hour).mean()
    )


@pytest.mark.parametrize("sizes", [{}, {"ads": 12, "users": 30, "events": 203}, {"ads": 3, "users": 19, "events": 40}])
def test_lists_of_ads(tmp_path, sizes):
    dataset = simulate_ads(seed=2, **sizes)
    data = prepare(dataset.tables, tmp_path / "out")
    events = data.events
    size = min(8, events.entity_count)
    ad = np.repeat(np.arange(events.entity_count), events.counts)
    group, position = np.asarray(events.group), context(data, "position")
    held = np.bincount(group)
    assert held.sum() == len(events) == sizes.get("events", 60_000)
    assert set(held) <= {size, size - 1}
    assert len(np.unique(group * 10_000 + ad)) == len(ad), "no ad stands twice in a list"
    assert len(np.unique(group * 10_000 + position)) == len(ad), "nor two at a position"
    for column in (events.time, np.asarray(events.item)):
        first = np.zeros(len(held), np.int64)
        first[group] = column
        assert (first[group] == column).all(), "a list is shown once, to one user"
    assert (context(data, "hour") == events.time // 3600 % 24).all()


def steps(data):
    """All rows of a simulation of cities as tensors: entity, history, hour, item, each in order of the rows."""
    index = EventIndex.of(data)
    every = torch.arange(len(index.item))
    rows = index.rows(1, torch.zeros_like(every), every, every)
    entity = np.repeat(np.arange(data.events.entity_count), data.events.counts)
    return entity, rows.history[0].numpy(), rows.context["hour"][0].numpy(), rows.item[0].numpy()


def test_nobody_knows_the_next_place_better_than_the_truth(tmp_path):
    dataset = simulate_cities(seed=1)
    data = prepare(dataset.tables, tmp_path / "out")
    entity, history, hour, item = steps(data)
    local = data.ownership.local
    pick = np.random.default_rng(0).choice(len(item), 4000, replace=False)
    entity, history, hour, mine = entity[pick], history[pick], hour[pick], local[item[pick]]
    score = dataset.truth.scores(data, entity, history, hour)
    assert np.isneginf(score[:, :FIRST]).all()
    rank = lambda s: (s > np.take_along_axis(s, mine[:, None], 1)).sum(1)  # noqa: E731
    open_ = np.isfinite(score)

    def hit(s, k=5):
        return (rank(np.where(open_, s, -np.inf)) < k).mean()

    counts = np.zeros(data.catalogue)
    np.add.at(counts, np.asarray(data.events.item), 1)
    homes = data.ownership
    place = np.where(open_, homes.indptr[entity][:, None] + np.arange(score.shape[1]) - FIRST, 0)
    where = np.stack([data.items["lat"].values, data.items["lon"].values], -1)
    last = np.where(history[:, 0] >= FIRST, history[:, 0], FIRST)
    near = -np.abs(where[homes.item[place]] - where[last][:, None]).sum(-1)
    shuffled = dataset.truth.scores(data, entity, history[np.random.default_rng(1).permutation(len(pick))] * 0, hour)
    oracle, crowd, nearest, forgetful = hit(score), hit(counts[homes.item[place]]), hit(near), hit(shuffled)
    assert oracle > 1.1 * max(crowd, nearest, forgetful)
    # The truth is a choice model: its softmax is calibrated at the row's own place.
    chance = np.exp(score - score.max(1, keepdims=True))
    chance /= chance.sum(1, keepdims=True)
    best = chance.max(1)
    assert abs(best.mean() - (rank(score) == 0).mean()) < 0.03


def test_people_live_in_one_city_and_come_again(tmp_path):
    dataset = simulate_cities(cities=12, places=300, people=60, events=1500, seed=4)
    data = prepare(dataset.tables, tmp_path / "out")
    assert (data.events.entity_count, len(data.events)) == (12, 1500)
    entity, history, _, item = steps(data)
    pairs = {(int(a), int(e)) for a, e in zip(data.events.actor, entity, strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == 60
    assert data.ownership.owner[item].tolist() == entity.tolist()
    assert np.isin(item, history).any()
    again = (history == item[:, None]).any(1)
    assert 0.2 < again.mean() < 0.9
    assert (history[:, 0] == item).mean() < 0.05
    assert len(data.about["titles"]) == data.catalogue - FIRST


def test_the_hour_is_that_of_the_place(tmp_path):
    data = prepare(simulate_cities(seed=0).tables, tmp_path / "out")
    entity = np.repeat(np.arange(data.events.entity_count), data.events.counts)
    ahead = np.rint(np.asarray(data.entities["lon"].values) / 15).astype(int)[entity]
    assert (context(data, "hour") == (data.events.time // 3600 + ahead) % 24).all()


def test_ratings_follow_the_taste(tmp_path):
    dataset = simulate_users(seed=2)
    data, truth = prepare(dataset.tables, tmp_path / "out"), dataset.truth
    entities, items = aligned(data, truth)
    entity = np.repeat(entities, data.events.counts)
    liking = (truth.taste[entity] * truth.latent[items[np.asarray(data.events.item) - FIRST]]).sum(1)
    assert np.corrcoef(liking, data.events.label)[0, 1] > 0.5
    assert set(np.unique(data.events.label)) == {1, 2, 3, 4, 5}


def test_demographics_explain_the_share_they_should():
    def explained(share):
        dataset = simulate_users(users=3000, seed=0, share=share)
        people = next(dataset.tables.entities.read(2**30)).frame
        design = np.concatenate(
            [(people[c].to_numpy()[:, None] == np.unique(people[c])[None]) for c in people if c != "user"], axis=1
        ).astype(float)
        fitted = design @ np.linalg.lstsq(design, dataset.truth.taste, rcond=None)[0]
        return fitted.var() / dataset.truth.taste.var()

    assert explained(0.0) < 0.05
    assert 0.2 < explained(0.5) < 0.8
    assert explained(1.0) > 0.99


def test_fashion_changes_what_is_popular(tmp_path):
    def shift(drift):
        dataset = simulate_users(seed=5, drift=drift)
        data = prepare(dataset.tables, tmp_path / str(drift))
        late = np.asarray(data.events.time) > np.median(data.events.time)
        counts = [np.bincount(data.events.item[part], minlength=data.catalogue) for part in (late, ~late)]
        return np.corrcoef(*counts)[0, 1]

    assert shift(1.0) < shift(0.0) - 0.1


@pytest.mark.parametrize("name", MAKERS)
def test_the_seed_decides_everything(name, tmp_path):
    one = prepare_named(name, tmp_path / "a", seed=7).digest
    assert prepare_named(name, tmp_path / "b", seed=7).digest == one
    assert prepare_named(name, tmp_path / "c", seed=8).digest != one


@pytest.mark.parametrize("name", MAKERS)
def test_it_is_quick(name, tmp_path):
    begun = time.process_time()
    prepare_named(name, tmp_path / "a")
    assert time.process_time() - begun < 6, "three seconds, and as many again for a busy machine"


def test_sizes(tmp_path):
    data = prepare(simulate_users(users=12, items=30, events=200, seed=0).tables, tmp_path / "out")
    assert (data.events.entity_count, len(data.events)) == (12, 200)
    full = prepare(simulate_users(users=3, items=5, events=15, seed=0).tables, tmp_path / "full")
    assert len(full.events) == 15
    for wrong in ({"events": 10}, {"users": 0}, {"events": 10**9}):
        with pytest.raises(ConfigError, match="events"):
            simulate_users(**wrong)
    for wrong in ({"cities": 0}, {"places": 100}, {"people": 100}, {"events": 10}):
        with pytest.raises(ConfigError, match="do not fit this simulation"):
            simulate_cities(**wrong)
    odd = prepare(simulate_users(users=10, items=21, events=105, seed=0).tables, tmp_path / "odd")
    assert len(odd.events) == 105
