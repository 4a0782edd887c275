"""What was disliked before the query belongs to the support, and nothing else changes for it."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.evaluation.cold_start import episodes_at
from tests.fixtures.small_datasets import data_of

LABELS = st.lists(st.lists(st.sampled_from([1, 3, 4, 5]), min_size=1, max_size=9), min_size=1, max_size=5)


def data_with(labels, **schema):
    return data_of([list(range(len(row))) for row in labels], labels, **{"positive": 4, **schema})


def items_of(rows):
    return [row[mask].tolist() for row, mask in zip(rows.item, rows.mask, strict=True)]


@given(LABELS, st.integers(0, 6))
def test_dislikes_before_the_last_support_row_are_drawn(labels, shots):
    index = EventIndex.of(data_with(labels))
    tasks = torch.arange(len(labels))
    if index.dislikes is None:
        assert all(label >= 4 for row in labels for label in row)
        return
    drawn = items_of(index.dislikes.draw(tasks, torch.full((len(labels),), shots)))
    for row, items in zip(labels, drawn, strict=True):
        liked = [i for i, label in enumerate(row) if label >= 4]
        end = 0 if not shots else (liked[shots - 1] if shots <= len(liked) else len(row))
        assert items == [i + 2 for i, label in enumerate(row[:end]) if label < 4]


@given(LABELS, st.integers(0, 3), st.integers(0, 3))
def test_no_dislike_changes_who_is_liked_in_support_and_query(labels, shots, seed):
    with_dislikes, without = (
        EventIndex.of(data_with(labels)),
        EventIndex.of(
            data_of(
                [[i for i, label in enumerate(row) if label >= 4] for row in labels],
                [[label for label in row if label >= 4] for row in labels],
                positive=4,
            )
        ),
    )
    assert without.dislikes is None
    tasks, sizes = torch.arange(len(labels)), torch.full((len(labels),), shots)
    for change in (lambda index: index, lambda index: index.shuffled(seed)):
        pairs = zip(change(with_dislikes).draw(tasks, sizes), change(without).draw(tasks, sizes), strict=True)
        assert all(torch.equal(one.item, other.item) for one, other in pairs)


def test_where_supports_are_random_a_dislike_may_stand_anywhere():
    labels = [[1] * 40 + [5] * 4] * 200
    index = EventIndex.of(data_with(labels)).shuffled(3)
    for shots in (0, 2, 4):
        drawn = index.dislikes.draw(torch.arange(200), torch.full((200,), shots))
        assert abs(float(drawn.mask.sum()) / (200 * 40) - shots / 5) < 0.05
    again = EventIndex.of(data_with(labels)).shuffled(3)
    assert torch.equal(index.dislikes.likes_before, again.dislikes.likes_before)


def test_an_episode_has_them_and_ranks_none_of_them():
    data = data_with([[1, 5, 3, 5, 1, 4, 5]])
    batch = episodes_at(data, EventIndex.of(data), np.array([0]), 2)
    assert items_of(batch.support.rows) == [[3, 5]] and items_of(batch.query) == [[7, 8]]
    assert items_of(batch.support.dislikes) == [[2, 4]]
    assert set(batch.support.seen_items[0].tolist()) == {2, 3, 4, 5}
    assert batch.support.empty().dislikes is None


def test_only_rankings_with_a_threshold_have_dislikes():
    labels = [[1, 5, 3]]
    assert EventIndex.of(data_with(labels, positive=None)).dislikes is None
    assert EventIndex.of(data_of([[0, 1, 2]], labels, objective="rating", positive=4)).dislikes is None
    assert EventIndex.of(data_with(labels)).select(torch.tensor([True])).dislikes is None
