"""Episodes that constants are chosen on: several supports of each entity where entities are few."""

import numpy as np
import pytest

from recsys_meta.episodes.event_index import EventIndex, order_rows
from recsys_meta.episodes.splits import split_by_seed
from recsys_meta.evaluation import validation_episodes
from recsys_meta.evaluation.baseline_tuning import fit_tuned
from recsys_meta.evaluation.ensemble.pruning import is_clear_loss
from recsys_meta.evaluation.validation_episodes import (
    ENOUGH_EPISODES,
    LEAST_ENTITIES,
    MOST_DRAWS,
    affordable,
    draw_episodes,
    support_draws,
)
from tests.models.baselines.cases import simulated_dataset

SHOTS = (0, 1, 3)


@pytest.fixture(scope="module")
def data():
    return simulated_dataset(entities=200, items=40)


@pytest.mark.parametrize(("entities", "draws"), [(20, MOST_DRAWS), (200, 3), (ENOUGH_EPISODES, 1), (5_000, 1), (0, 6)])
def test_few_entities_have_several_supports_drawn_at_random(data, entities, draws):
    index = EventIndex.of(data)
    made = support_draws(index, "random", entities, 7)
    assert len(made) == draws
    assert (made[0].item == order_rows(index, "random", 7).item).all(), "the first is the one that is evaluated"
    assert len({tuple(rows.item.tolist()) for rows in made}) == draws


def test_by_time_there_is_one_support(data):
    assert len(support_draws(EventIndex.of(data), "time", 20, 0)) == 1


def test_every_draw_has_all_entities_and_an_empty_support_is_drawn_once(data):
    index = EventIndex.of(data)
    entities = index.entities_with(4)[:30]
    episodes = draw_episodes(data, support_draws(index, "random", 30, 0), entities, SHOTS, 16)
    counts = {
        k: np.unique(np.concatenate([b.entity.numpy() for b in parts]), return_counts=True)
        for k, parts in episodes.items()
    }
    assert {k: set(count.tolist()) for k, (_, count) in counts.items()} == {0: {1}, 1: {MOST_DRAWS}, 3: {MOST_DRAWS}}
    supports = np.concatenate([b.support.rows.item[:, 0].numpy() for b in episodes[1]])
    assert len(supports) == 30 * MOST_DRAWS and len(set(supports.tolist())) > 1


def test_tuning_counts_entities_and_not_their_supports(data):
    index = EventIndex.of(data)
    split = split_by_seed(index.entities_with(2), 0, (0.6, 0.2))
    tuned = fit_tuned("naive-bayes", data, index, split, shots=SHOTS)
    assert all(choice.n <= len(split.valid) for choice in tuned.report.choices)


def test_episodes_of_one_entity_are_one_piece_of_evidence():
    loss = np.array([0.3, -0.2] * 6)
    assert is_clear_loss(np.repeat(loss, 40), np.arange(480)), "were they independent"
    assert not is_clear_loss(np.repeat(loss, 40), np.repeat(np.arange(12), 40))


def test_a_large_catalogue_is_ranked_for_fewer_entities(data, monkeypatch):
    assert affordable(300, data) == 300
    monkeypatch.setattr(validation_episodes, "FULL_CATALOGUE", 10)
    assert affordable(300, data) == 75, "four times as many items, a quarter of the entities"
    assert affordable(100, data) == LEAST_ENTITIES and affordable(20, data) == 20
    ratings = simulated_dataset(entities=20, items=40, objective="rating")
    assert affordable(300, ratings) == 300, "rows are scored, not the catalogue"


def test_tuning_on_a_large_catalogue_looks_at_fewer_entities(monkeypatch):
    data = simulated_dataset(entities=400, items=40)
    index = EventIndex.of(data)
    split = split_by_seed(index.entities_with(2), 0, (0.6, 0.3))
    monkeypatch.setattr(validation_episodes, "FULL_CATALOGUE", 10)
    whole, few = len(split.valid), fit_tuned("popularity", data, index, split, shots=(0,)).report.choices[0].n
    assert whole > 75 and few == 75
