from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.splits import split_by_seed
from recsys_meta.episodes.warm_cold_scenarios import warm_cold_grid
from tests.fixtures.small_datasets import data_of

NAMES = {"new-new", "new-known", "known-new", "known-known"}


def world(time=True, entities=60, items=40, rows=12, seed=0, **schema) -> Dataset:
    """Rows whose label is their number, so that a row can be followed through the corners."""
    rng = np.random.default_rng(seed)
    item = [rng.permutation(items)[:rows] for _ in range(entities)]
    times = [np.sort(rng.integers(0, 10_000, rows)) for _ in range(entities)]
    label = list(np.arange(entities * rows, dtype=float).reshape(entities, rows))
    return data_of(item, label, times if time else None, objective="rating", **schema)


def cut(data, seed=0, **more):
    index = EventIndex.of(data)
    split = split_by_seed(np.arange(data.events.entity_count), 0)
    return index, split, warm_cold_grid(data, index, split, seed=seed, **more)


def rows_of(index, entities):
    """Numbers of the rows of some entities."""
    return set(index.of_entities(entities)[2].tolist())


@pytest.mark.parametrize("time", [True, False])
def test_corners_never_overlap_the_rows_that_training_sees_nor_one_another(time):
    _, split, got = cut(world(time))
    assert set(got.cells) == NAMES
    trained = rows_of(got.training, split.train)
    asked = [rows_of(c.index, c.entities) for c in got.cells.values()]
    assert all(asked) and trained
    for i, rows in enumerate(asked):
        assert not rows & trained
        assert all(not rows & other for other in asked[:i])


@pytest.mark.parametrize("time", [True, False])
def test_every_row_of_training_and_test_entities_is_in_exactly_one_place(time):
    index, split, got = cut(world(time))
    parts = [rows_of(got.training, split.train)] + [rows_of(c.index, c.entities) for c in got.cells.values()]
    assert sum(map(len, parts)) == len(set().union(*parts))
    assert set().union(*parts) == rows_of(index, split.train) | rows_of(index, split.test)


@pytest.mark.parametrize("time", [True, False])
def test_items_shown_are_those_of_the_corner_and_new_items_were_never_trained_on(time):
    data = world(time)
    _, split, got = cut(data)
    new, known = got.cells["new-new"].item_mask, got.cells["new-known"].item_mask
    assert not (new & known).any() and (new | known)[2:].all() and not (new | known)[:2].any()
    assert int(new.sum()) == 8  # a fifth of 40
    trained = set(got.training.of_entities(np.arange(data.events.entity_count))[1].tolist())
    assert not trained & set(new.nonzero()[:, 0].tolist())
    for name, corner in got.cells.items():
        assert torch.equal(corner.item_mask, new if name.endswith("-new") else known)
        assert corner.item_mask[corner.index.item.long()].all()
        assert np.array_equal(corner.entities, split.test if name.startswith("new") else split.train)


def test_by_time_new_items_appear_last_and_held_out_rows_are_the_last_of_each():
    data = world(time=True)
    index, split, got = cut(data)
    first = np.full(data.catalogue, np.iinfo(np.int64).max)
    np.minimum.at(first, data.events.item, data.events.time)
    new = got.cells["new-new"].item_mask.numpy()
    assert first[2:][~new[2:]].max() <= first[new].min()
    held, kept = got.cells["known-known"].index, got.training
    some = 0
    for e in split.train:
        late, early = rows_of(held, [e]), rows_of(kept, [e])
        if late:
            some += 1
            assert max(early) < min(late)  # numbers of rows grow with time
            assert len(late) == pytest.approx(0.2 * (len(late) + len(early)), abs=1)
    assert some > len(split.train) / 2
    for e in split.valid:
        assert not rows_of(held, [e])
        assert rows_of(kept, [e]) <= rows_of(index, [e])


def test_at_random_the_seed_decides():
    data = world(time=False)
    one, again, other = (cut(data, seed)[2] for seed in (1, 1, 2))
    assert torch.equal(one.cells["new-new"].item_mask, again.cells["new-new"].item_mask)
    assert torch.equal(one.training.label, again.training.label)
    assert not torch.equal(one.cells["new-new"].item_mask, other.cells["new-new"].item_mask)


def test_an_item_that_never_occurs_does_not_use_up_the_new_ones():
    """Half of the catalogue without a row: the share is of items that occur, and the corner has rows."""
    for time in (True, False):
        data = world(time, items=40)
        names = data.vocab.values["item"].append(data.vocab.values["item"].map(lambda n: f"never-{n}"))
        data = Dataset(data.schema, data.events, data.entities, {}, replace(data.vocab, values={"item": names}))
        got = cut(data)[2]
        new = got.cells["new-new"]
        assert int(new.item_mask[2:42].sum()) == 8 and new.item_mask[42:].all()
        assert not got.cells["new-known"].item_mask[42:].any()
        assert len(rows_of(new.index, new.entities)) > 0


@pytest.mark.parametrize(
    ("data", "more", "says"),
    [
        (world(items=40), {"new_items": 0.0}, "between 0 and 1"),
        (world(items=40), {"held_out": 1.0}, "between 0 and 1"),
        (world(items=2, rows=2), {}, "too few"),
        (world(items=40, rows=2), {}, "'known-known' would have no rows"),
        (world(items=40, rows=12), {"new_items": 0.01}, "too few"),
    ],
)
def test_what_is_too_small_is_an_error(data, more, says):
    with pytest.raises(ConfigError, match=says):
        cut(data, **more)
