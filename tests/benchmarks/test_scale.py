"""The large simulated log: its sizes, and that there is structure to find."""

import numpy as np
import pytest

from benchmarks import scale_copies, scale_data, scale_steps
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FIRST
from recsys_meta.data import open_dataset, prepare_custom
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.evaluation.cold_start import cold_start
from recsys_meta.models.baselines.counting.popularity import ItemPopularity
from recsys_meta.models.baselines.item_based.itemknn import ItemKNN


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scale")
    prepare_custom(scale_data.make(folder / "raw", 30_000, 1_500, 400), folder / "data")
    return folder / "data"


@pytest.fixture(scope="module")
def data(folder):
    return open_dataset(folder)


def test_sizes_are_as_asked_for_and_nobody_has_an_item_twice(data):
    assert len(data.events) == 30_000 and data.events.entity_count == 1_500
    user = np.repeat(np.arange(1_500), data.events.counts)
    assert len(np.unique(user * data.catalogue + data.events.item)) == 30_000
    assert set(data.entities) == {"gender", "age", "occupation"} and set(data.items) == {"genres"}


def test_what_a_user_chose_says_what_else_it_chooses(data):
    index, train, test = EventIndex.of(data), np.arange(1_200), np.arange(1_200, 1_500)

    def ndcg(method):
        return cold_start(method, method.fit(data, train), data, index, test, shots=[5]).mean("ndcg@10")

    assert ndcg(ItemKNN()) > 1.05 * ndcg(ItemPopularity())


def test_sizes_that_do_not_fit_together_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="do not fit"):
        scale_data.make(tmp_path, 100, 50, 40)


def test_copies_lie_side_by_side(folder, data, tmp_path):
    copies = open_dataset(scale_copies.copy_side_by_side(folder, tmp_path / "copies", 3), verify=True)
    assert (len(copies.events), copies.events.entity_count) == (90_000, 4_500)
    own = data.catalogue - FIRST
    assert copies.catalogue == FIRST + 3 * own and copies.vocab.values["item"].is_unique
    for copy in range(3):
        first = copies.events.indptr[1_500 * copy]
        rows = slice(first, first + 30_000)
        assert np.array_equal(copies.events.item[rows], data.events.item + copy * own)
        assert np.array_equal(copies.events.time[rows], data.events.time)
    for item in (FIRST, FIRST + own - 1):
        for copy in range(3):
            assert _genres(copies, item + copy * own) == _genres(data, item) != []


def _genres(data, item):
    column = data.items["genres"]
    return column.values[column.indptr[item] : column.indptr[item + 1]].tolist()


@pytest.mark.slow
def test_steps_are_timed_on_each_data_set_in_turn(folder):
    first, second = scale_steps.measure([folder, folder], rounds=2, warm=0)
    assert (first["events"], first["users"], first["ratio"]) == (30_000, 1_500, 1.0)
    assert first["items"] == second["items"] <= 400 and second["step_seconds"] > 0
    assert 0 < first["resident_mebibytes"] <= second["resident_mebibytes"]
