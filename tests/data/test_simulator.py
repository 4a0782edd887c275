"""The simulator: its truth is the best ranking there is, and adapting to it is worth while."""

import time

import numpy as np
import pytest

from recsys_meta.data import prepare, prepare_named, simulate_ads, simulate_cities, simulate_users
from recsys_meta.errors import ConfigError
from recsys_meta.types import FIRST

MAKERS = {"simulated-users": simulate_users, "simulated-ads": simulate_ads, "simulated-cities": simulate_cities}


@pytest.fixture(scope="module", params=MAKERS)
def world(request, tmp_path_factory):
    made = MAKERS[request.param](seed=3)
    return request.param, made, prepare(made.tables, tmp_path_factory.mktemp("s") / "out")


def aligned(data, truth):
    """Rows of the truth for the prepared entities and items."""
    entities = np.searchsorted(truth.entity_ids, np.array(list(data.vocab.values["entity"])))
    items = np.searchsorted(truth.item_ids, np.array(list(data.vocab.values["item"])))
    return entities, items


def test_it_is_what_its_schema_says(world):
    name, made, data = world
    assert data.schema.name == name
    assert data.schema.exact_time
    assert data.about["rows_rejected"] == {}
    assert data.events.entities == len(made.truth.entity_ids)
    assert data.catalogue - FIRST > 0.9 * len(made.truth.item_ids)
    assert data.events.counts.min() >= 10
    for a, b in zip(data.events.indptr[:20], data.events.indptr[1:21], strict=True):
        assert (np.diff(np.asarray(data.events.time[a:b])) > 0).all(), "times are exact and distinct"
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


@pytest.mark.parametrize("name", ["simulated-users", "simulated-cities"])
def test_the_truth_beats_popularity_and_taste_matters(name, tmp_path):
    made = MAKERS[name](seed=1)
    data, truth = prepare(made.tables, tmp_path / "out"), made.truth
    entities, items = aligned(data, truth)
    utility = truth.utility(entities)[:, items]
    popular = np.tile(np.bincount(data.events.item, minlength=data.catalogue)[FIRST:], (len(entities), 1))
    others = utility[np.roll(np.arange(len(entities)), 1)]
    oracle, crowd, stranger = (recall(s, data) for s in (utility, popular, others))
    assert oracle > 1.3 * crowd
    assert oracle > 1.3 * stranger, "somebody else's taste must not do as well"


def test_the_truth_of_clicks_is_calibrated_and_informative(tmp_path):
    made = simulate_ads(seed=1)
    data, truth = prepare(made.tables, tmp_path / "out"), made.truth
    entities, items = aligned(data, truth)
    chance = truth.probability(entities)[:, items]
    entity = np.repeat(np.arange(data.events.entities), data.events.counts)
    p, y = chance[entity, np.asarray(data.events.item) - FIRST], np.asarray(data.events.label)
    assert abs(p.mean() - y.mean()) < 0.01
    high = p > np.quantile(p, 0.9)
    assert abs(p[high].mean() - y[high].mean()) < 0.03
    loss = -(y * np.log(p) + (1 - y) * np.log1p(-p)).mean()
    rate = y.mean()
    constant = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    assert loss < 0.9 * constant
    assert 0.05 < rate < 0.4


def test_ratings_follow_the_taste(tmp_path):
    made = simulate_users(seed=2)
    data, truth = prepare(made.tables, tmp_path / "out"), made.truth
    entities, items = aligned(data, truth)
    entity = np.repeat(entities, data.events.counts)
    liking = (truth.taste[entity] * truth.latent[items[np.asarray(data.events.item) - FIRST]]).sum(1)
    assert np.corrcoef(liking, data.events.label)[0, 1] > 0.5
    assert set(np.unique(data.events.label)) == {1, 2, 3, 4, 5}


def test_demographics_explain_the_share_they_should():
    def explained(share):
        made = simulate_users(users=3000, seed=0, share=share)
        people = next(made.tables.entities.read(2**30)).frame
        design = np.concatenate(
            [(people[c].to_numpy()[:, None] == np.unique(people[c])[None]) for c in people if c != "user"], axis=1
        ).astype(float)
        fitted = design @ np.linalg.lstsq(design, made.truth.taste, rcond=None)[0]
        return fitted.var() / made.truth.taste.var()

    assert explained(0.0) < 0.05
    assert 0.2 < explained(0.5) < 0.8
    assert explained(1.0) > 0.99


def test_fashion_changes_what_is_popular(tmp_path):
    def shift(drift):
        made = simulate_users(seed=5, drift=drift)
        data = prepare(made.tables, tmp_path / str(drift))
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
    assert (data.events.entities, len(data.events)) == (12, 200)
    full = prepare(simulate_users(users=3, items=5, events=15, seed=0).tables, tmp_path / "full")
    assert len(full.events) == 15
    for wrong in ({"events": 10}, {"users": 0}, {"events": 10**9}):
        with pytest.raises(ConfigError, match="events"):
            simulate_users(**wrong)
