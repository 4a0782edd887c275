import numpy as np
import pytest
import torch

from recsys_meta.core.errors import ConfigError
from recsys_meta.episodes.actor_episodes import ROWS_PER_ACTOR, SUPPORT_ROWS, ActorIndex
from recsys_meta.episodes.event_index import EventIndex, order_rows
from tests.fixtures.city_datasets import towns


@pytest.fixture(scope="module")
def index():
    return EventIndex.of(towns(entities=3, actors=24, rows=50))


@pytest.fixture(scope="module")
def actors(index):
    return ActorIndex.of_rows(index, seed=0)


def drawn(actors, shots, **kind):
    entities = torch.tensor([0, 2])
    return actors.draw(entities, torch.full((2,), shots), **kind)


def test_the_support_is_what_a_few_did_first_and_the_query_what_others_did_next(actors, index):
    support, query = drawn(actors, 4)
    assert support.mask.sum(1).tolist() == [4 * SUPPORT_ROWS, 4 * SUPPORT_ROWS]
    assert query.mask.sum(1).tolist() == [12 * (ROWS_PER_ACTOR - SUPPORT_ROWS)] * 2
    for t in range(2):
        seen, asked = (index.actor[r.position[t][r.mask[t]]] for r in (support, query))
        assert len(seen.unique()) == 4
        assert not set(seen.tolist()) & set(asked.tolist())


def test_more_support_leaves_the_query_as_it_is(actors):
    _, few = drawn(actors, 0)
    _, many = drawn(actors, 12)
    assert torch.equal(few.position, many.position)


def test_history_is_what_the_actor_did_just_before(actors, index):
    _, query = drawn(actors, 4)
    position = query.position[0]
    for column in (0, 1, 2, 5):
        before = position[column]
        own = []
        for _ in range(SUPPORT_ROWS + column % 3):
            before = index.previous[before]
            own.append(int(index.item[before]))
        assert query.history[0, column].tolist() == own + [0] * (ROWS_PER_ACTOR - 1 - len(own))


def test_an_actor_may_be_on_either_side_while_training(actors, index):
    generator = torch.Generator().manual_seed(0)
    asked = set()
    for _ in range(20):
        _, query = drawn(actors, 4, generator=generator, max_query=6)
        assert query.mask.sum(1).tolist() == [6, 6]
        asked |= set(index.actor[query.position[query.mask]].tolist())
    assert len(asked) > 24  # of 48 in two entities; the pool alone has half of them


def test_preferred_actors_are_asked_first(actors, index):
    liked = int(index.actor[index.entity == 0].max())
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        _, query = drawn(actors, 0, generator=generator, max_query=6, prefer=index.actor == liked)
        met = index.actor[query.position[0]]
        if liked in met:
            assert met[:3].tolist() == [liked] * 3
            return
    raise AssertionError("the preferred actor was never asked")


def test_too_small_entities_take_no_part(index):
    data = towns(entities=2, actors=5, rows=50)
    assert len(ActorIndex.of_rows(EventIndex.of(data), 0).entities_with(1)) == 0
    assert len(ActorIndex.of_rows(index, 0).entities_with(1)) == 3


def test_the_pool_bounds_the_shots(actors):
    assert actors.has_support(np.array([0, 1, 2]), 12, 1).all()
    assert not actors.has_support(np.array([0, 1, 2]), 13, 1).any()


def test_rows_without_actors_are_refused(index):
    from dataclasses import replace

    with pytest.raises(ConfigError, match="name an actor"):
        ActorIndex.of_rows(replace(index, actor=None), 0)


@pytest.mark.parametrize("first", [0, 40_000, 1 << 22])
def test_rows_stay_with_their_entity_however_many_there_are(first):
    """The number of an entity must not swallow the chance that its actors are mixed by."""
    entities, each = 12, 100
    counts = torch.zeros(first + entities, dtype=torch.int64)
    counts[first:] = each * ROWS_PER_ACTOR
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    actor = torch.arange(each).repeat_interleave(ROWS_PER_ACTOR).repeat(entities)
    index = EventIndex(indptr, torch.full_like(actor, 2, dtype=torch.int32), torch.ones(len(actor)), actor=actor)
    orders = []
    for seed in range(5):
        made = ActorIndex.of_rows(index, seed)
        owner = torch.repeat_interleave(torch.arange(len(counts)), made.actor_indptr.diff())
        assert torch.equal(index.entity[made.steps[:, 0]], owner)
        orders.append(index.actor[made.steps[:, 0]].view(entities, each))
    assert all((order.sort(1).values == torch.arange(each)).all() for order in orders)
    moved = torch.stack(orders)[:, :, 1:] < torch.stack(orders)[:, :, :-1]
    assert float(moved.float().mean()) == pytest.approx(0.5, abs=0.05)  # in order of actor it would be 0


def test_a_random_order_of_rows_leaves_the_episodes_of_actors_as_they_are(actors, index):
    """Shuffled rows under the positions of the unshuffled ones would be episodes of nobody."""
    ordered = order_rows(actors, "random", 7)
    assert not torch.equal(order_rows(index, "random", 7).item, index.item)
    for ours, theirs in zip(drawn(ordered, 4), drawn(actors, 4), strict=True):
        assert torch.equal(ours.item, theirs.item) and torch.equal(ours.position, theirs.position)
