from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys_meta.episodes.collate import collate, episode_batch
from recsys_meta.episodes.event_index import EventIndex
from tests.fixtures.small_datasets import data_of


@given(st.lists(st.lists(st.integers(2, 40), max_size=5), max_size=6))
def test_collate_equals_the_padding_of_draw(items):
    labels = [[float(i) / 2 for i in row] for row in items]
    rows = collate(items, labels)
    extended = data_of([[i - 2 for i in row] + [0] for row in items] or [[0]], objective="rating")
    index = replace(
        EventIndex.of(extended),
        label=torch.tensor([x for row in labels for x in [*row, 0.0]] or [0.0], dtype=torch.float32),
    )
    shots = torch.tensor([len(row) for row in items], dtype=torch.int64)
    support, _ = index.draw(torch.arange(len(items)), shots)
    for got, wanted in ((rows.item, support.item), (rows.label, support.label), (rows.mask, support.mask)):
        assert torch.equal(got, wanted) and got.dtype == wanted.dtype


def test_collate_wants_a_label_for_each_item():
    with pytest.raises(ValueError, match="one label for each item"):
        collate([[2, 3], [4]], [[1.0], [1.0, 1.0]])


def test_a_batch_has_the_features_of_its_entities():
    data = data_of([[0, 1], [1, 2], [2, 3]])
    support, query = EventIndex.of(data).draw(torch.tensor([2, 0]), torch.tensor([1, 1]))
    batch = episode_batch(data, np.array([2, 0]), support, query)
    assert batch.entity.tolist() == [2, 0] and batch.support.features["row"].tolist() == [2.0, 0.0]
    assert batch.support.rows is support and batch.query is query
