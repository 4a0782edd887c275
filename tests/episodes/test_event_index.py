import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_meta.episodes.event_index import EventIndex, order_rows, restrict_to_entities, shuffle_within
from tests.fixtures.small_datasets import data_of, index_of

COUNTS = st.lists(st.integers(0, 7), min_size=1, max_size=8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# The index


def test_a_ranking_keeps_only_positives_whose_label_becomes_one():
    data = data_of([[0, 1, 2], [3], [4, 5]], [[5, 3, 4], [1], [4, 4]], positive=4)
    index = EventIndex.of(data)
    assert index.item.tolist() == [2, 4, 6, 7]
    assert index.indptr.tolist() == [0, 2, 2, 4]
    assert index.label.tolist() == [1, 1, 1, 1]


def test_other_objectives_and_rankings_without_a_threshold_keep_every_row():
    label = [[5, 3, 4], [1]]
    rating = EventIndex.of(data_of([[0, 1, 2], [3]], label, objective="rating"))
    assert rating.label.tolist() == [5, 3, 4, 1]
    assert EventIndex.of(data_of([[0, 1, 2], [3]], label)).label.tolist() == [1, 1, 1, 1]


@given(COUNTS, st.data())
def test_only_keeps_the_marked_rows_of_each_entity(counts, data):
    index = index_of(counts)
    keep = data.draw(st.lists(st.booleans(), min_size=sum(counts), max_size=sum(counts)))
    kept = index.select(torch.tensor(keep, dtype=torch.bool))
    for e in range(len(counts)):
        rows = range(int(index.indptr[e]), int(index.indptr[e + 1]))
        got = kept.label[kept.indptr[e] : kept.indptr[e + 1]].tolist()
        assert got == [float(r) for r in rows if keep[r]]


@given(COUNTS, st.integers(0, 3))
def test_shuffling_keeps_the_rows_of_each_entity(counts, seed):
    index = index_of(counts)
    mixed = index.shuffled(seed)
    assert torch.equal(mixed.indptr, index.indptr)
    for e in range(len(counts)):
        own = slice(int(index.indptr[e]), int(index.indptr[e + 1]))
        pairs = sorted(zip(mixed.item[own].tolist(), mixed.label[own].tolist(), strict=True))
        assert pairs == sorted(zip(index.item[own].tolist(), index.label[own].tolist(), strict=True))
    assert torch.equal(mixed.label, index.shuffled(seed).label)


def test_every_row_comes_first_equally_often():
    index = index_of([5] * 600 + [3] * 600)
    first = index.shuffled(1).label[index.indptr[:-1]].long() - index.indptr[:-1]
    assert torch.bincount(first[:600]).tolist() == pytest.approx([120] * 5, abs=45)  # deviation 9.8
    assert torch.bincount(first[600:]).tolist() == pytest.approx([200] * 3, abs=52)  # deviation 11.5


def test_order_says_how_supports_grow():
    index = index_of([6, 6])
    assert order_rows(index, "time", 3) is index
    assert torch.equal(order_rows(index, "random", 3).label, index.shuffled(3).label)
    assert not torch.equal(order_rows(index, "random", 3).label, order_rows(index, "random", 4).label)


@given(COUNTS, st.data())
def test_flat_and_of_entities_equal_loops(counts, data):
    index = index_of(counts)
    chosen = data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=5))
    task, position = index.flatten(torch.tensor(chosen, dtype=torch.int64))
    wanted = [(t, r) for t, e in enumerate(chosen) for r in range(int(index.indptr[e]), int(index.indptr[e + 1]))]
    assert list(zip(task.tolist(), position.tolist(), strict=True)) == wanted
    task, item, label = index.of_entities(np.array(chosen, np.int64))
    assert label.tolist() == [float(r) for _, r in wanted] and item.dtype == torch.int64
    assert item.tolist() == index.item[position].tolist()


def test_having_counts_rows():
    assert index_of([0, 1, 2, 3]).entities_with(2).tolist() == [2, 3]


# Episodes


def rows_of(rows, t):
    """Labels (which number the rows) of task t."""
    return rows.label[t][rows.mask[t]].tolist()


@settings(max_examples=150)
@given(COUNTS, st.data())
def test_draw_equals_a_loop(counts, data):
    """By time: sizes are min(k, n - 1), the first rows are the support, all others the query, all is padded alike."""
    index = index_of(counts)
    chosen = data.draw(st.lists(st.integers(0, len(counts) - 1), min_size=1, max_size=6))
    shots = data.draw(st.lists(st.integers(0, 9), min_size=len(chosen), max_size=len(chosen)))
    most = data.draw(st.one_of(st.none(), st.integers(1, 5)))
    support, query = index.draw(torch.tensor(chosen), torch.tensor(shots), max_query=most)
    for t, (e, k) in enumerate(zip(chosen, shots, strict=True)):
        rows = list(range(int(index.indptr[e]), int(index.indptr[e + 1])))
        size = min(k, max(0, len(rows) - 1))
        assert rows_of(support, t) == rows[:size]
        assert rows_of(query, t) == rows[size:][:most]
        for part in (support, query):
            n = int(part.mask[t].sum())
            assert part.mask[t, :n].all() and not part.mask[t, n:].any()
            assert part.item[t][:n].tolist() == [int(index.item[int(r)]) for r in rows_of(part, t)]
            assert (part.item[t, n:] == 0).all() and (part.label[t, n:] == 0).all()
    for part in (support, query):
        assert part.item.shape[1] == int(part.mask.sum(1).max()), "no wider than the longest task"
        assert part.item.dtype == torch.int64 and part.label.dtype == torch.float32


@given(COUNTS, st.integers(0, 9), st.integers(0, 4))
def test_support_and_query_are_disjoint_and_together_the_entity(counts, k, seed):
    index = index_of(counts)
    chosen = torch.arange(len(counts))
    support, query = index.draw(chosen, torch.full_like(chosen, k), generator=generator(seed))
    for t, n in enumerate(counts):
        s, q = rows_of(support, t), rows_of(query, t)
        assert len(s) == min(k, max(0, n - 1))
        assert not set(s) & set(q)
        assert sorted(s + q) == list(range(int(index.indptr[t]), int(index.indptr[t + 1])))


def test_a_random_support_is_uniform_over_subsets_and_differs_between_seeds_and_draws():
    index = index_of([4])
    g, seen = generator(), {}
    for _ in range(600):
        support, _ = index.draw(torch.tensor([0]), torch.tensor([2]), generator=g)
        key = tuple(support.label[0].tolist())
        seen[key] = seen.get(key, 0) + 1
    assert len(seen) == 12  # ordered pairs
    assert list(seen.values()) == pytest.approx([50] * 12, abs=32)  # deviation 6.8
    big = index_of([50])
    one, other = (big.draw(torch.tensor([0]), torch.tensor([9]), generator=generator(s))[0].label for s in (1, 2))
    assert not torch.equal(one, other)


def test_the_same_entity_twice_is_two_tasks():
    index = index_of([30, 30])
    support, _ = index.draw(torch.tensor([1, 1]), torch.tensor([9, 9]), generator=generator())
    assert not torch.equal(support.label[0], support.label[1])
    assert (support.label >= 30).all()


def test_a_cut_query_is_random_only_if_shuffled():
    index = index_of([40])
    by_time = index.draw(torch.tensor([0]), torch.tensor([5]), max_query=3)[1]
    assert by_time.label.tolist() == [[5, 6, 7]]
    mixed = index.draw(torch.tensor([0]), torch.tensor([5]), max_query=3, generator=generator())[1]
    assert mixed.label.shape == (1, 3) and sorted(mixed.label[0].tolist()) != [5, 6, 7]


def test_no_entity_and_no_row_are_empty_batches():
    support, query = index_of([0, 0]).draw(torch.tensor([0, 1]), torch.tensor([3, 3]))
    assert support.item.shape == query.item.shape == (2, 0)
    support, query = index_of([3]).draw(torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64))
    assert support.item.shape == query.item.shape == (0, 0)


def test_the_index_is_not_changed_by_drawing():
    index = index_of([5, 6])
    before = [t.clone() for t in (index.indptr, index.item, index.label)]
    index.draw(torch.tensor([1, 0]), torch.tensor([2, 2]), generator=generator(), max_query=1)
    index.shuffled(1)
    assert all(torch.equal(a, b) for a, b in zip(before, (index.indptr, index.item, index.label), strict=True))


def test_seen_only_is_a_data_set_without_any_other_row():
    data = data_of([[0, 1, 2], [3, 4], [5]], [[5, 1, 5], [5, 5], [5]], positive=4)
    index = EventIndex.of(data)
    seen = restrict_to_entities(data, index.select(torch.tensor([True, False, True, True, True])), np.array([0, 2]))
    again = EventIndex.of(seen)
    assert again.item.tolist() == [2, 7] and again.indptr.tolist() == [0, 1, 1, 2]
    assert seen.events.time is None and seen.catalogue == data.catalogue and seen.digest == data.digest
    assert len(data.events) == 6


def test_the_query_may_begin_later_so_that_all_shots_share_one():
    index = index_of([30, 45, 10])
    entities = torch.arange(3)
    queries = [index.draw(entities, torch.full((3,), k), query_from=20)[1] for k in (0, 5, 20)]
    assert queries[0].mask.sum(1).tolist() == [10, 25, 0]
    assert all(torch.equal(q.label, queries[0].label) for q in queries)
    support, query = index.draw(entities, torch.full((3,), 25), query_from=20)
    assert query.mask.sum(1).tolist() == [5, 20, 0]
    assert support.mask.sum(1).tolist() == [25, 25, 9]
    assert index.has_support(np.arange(3), 5, 10, query_from=20).tolist() == [True, True, False]


def test_preferred_rows_come_first_when_a_query_is_cut():
    index = index_of([40, 40])
    prefer = torch.zeros(80, dtype=torch.bool)
    prefer[[3, 20, 25, 60, 79]] = True
    support, query = index.draw(torch.arange(2), torch.tensor([5, 5]), max_query=4, prefer=prefer)
    assert support.label[0].tolist() == [0, 1, 2, 3, 4]  # the support is drawn as ever
    assert query.label[0].tolist() == [20, 25, 5, 6]
    assert query.label[1].tolist() == [60, 79, 45, 46]
    plain = index.draw(torch.arange(2), torch.tensor([5, 5]), max_query=4, prefer=torch.zeros(80, dtype=torch.bool))
    assert plain[1].label.tolist() == index.draw(torch.arange(2), torch.tensor([5, 5]), max_query=4)[1].label.tolist()


def test_rows_stay_in_their_task_even_where_the_sum_of_task_and_chance_rounds_up():
    task = torch.tensor([2**30, 2**30, 2**30 + 1, 2**30 + 1]).repeat_interleave(64)
    chance = torch.where(torch.arange(256) % 2 == 0, 0.0, 1 - 2.0**-53).double()
    chance[:128] = 1 - 2.0**-53
    chance[128:] = 0.0
    assert torch.equal(shuffle_within(task, chance), torch.arange(256))


def test_a_shuffle_is_computed_once_for_a_seed():
    index = index_of([5, 0, 3])
    first = index.shuffled(3)
    assert index.shuffled(3) is first
    label = first.label.clone()
    assert not torch.equal(index.shuffled(4).item, first.item)
    again = index.shuffled(3)
    assert torch.equal(again.label, label) and torch.equal(again.item, first.item)


def test_an_index_stays_itself_on_its_own_device():
    index = index_of([5, 0, 3])
    assert index.to("cpu") is index and index.to(torch.device("cpu")) is index
