"""Which tables a group of processes shares, and which rows each of them holds."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from recsys_meta.core.errors import ConfigError
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.training.recipe import recipe_of
from recsys_meta.training.shard_plan import default_limit, shard_tables
from recsys_meta.training.table_shards import TableShards, row_owner
from recsys_meta.training.trainer import start_training
from recsys_meta.training.training_group import TrainingGroup
from tests.fixtures.simulated_datasets import ranking_world
from tests.fixtures.small_datasets import recipe, tiny

PAIR = TrainingGroup(0, 2)


def begin(*, group: TrainingGroup | None = PAIR, negatives=20, curriculum="uniform", watch=False, **train):
    """A run of process 0 before its first step; it has said nothing to the others yet."""
    data = ranking_world(entities=40, items=400, rows=8)
    index = EventIndex.of(data)
    made = recipe(tasks=7, curriculum=curriculum, **train)
    if watch:
        made = recipe_of(made.model_dump(mode="json"), ["curriculum.watch=true"])
    learner = tiny(objective="ranking", negatives=negatives)
    run = start_training(learner, made, data, index, index.entities_with(2), 0)
    run.group = group
    return run


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"curriculum": "hardness"}, "hardness of tasks is measured"),
        ({"watch": True}, "hardness of tasks is measured"),
        ({"hyper_rate": 0.1}, "train.hyper_rate"),
    ],
)
def test_shards_are_refused_where_every_step_needs_whole_tables(settings, reason):
    with pytest.raises(ConfigError, match=rf"train\.shard_above=1: tables cannot be sharded.*{reason}.*set it to 0"):
        shard_tables(begin(shard_above=1, **settings))
    assert shard_tables(begin(shard_above=0, **settings)) == ""


def test_tables_stay_whole_alone_below_the_size_and_where_no_step_selects_rows():
    for run in (
        begin(group=None, shard_above=1),
        begin(shard_above=402 * 4),
        begin(shard_above=0),
        begin(shard_above=1, negatives=0),
    ):
        assert shard_tables(run) == "" and run.shards is None and run.params["item"].shape == (402, 4)


def test_a_plan_draws_nothing_from_the_run_and_names_the_tables_beyond_the_size():
    run = begin(shard_above=402 * 4 - 1)
    before = run.generator.get_state()
    assert shard_tables(run) == "item (402 x 4): sharded by hash of rows over 2 processes"
    assert torch.equal(run.generator.get_state(), before)
    assert 150 < len(run.params["item"]) < 250 and run.params["bias"].shape == (402,)
    assert shard_tables(run) == "", "they are sharded once"


@pytest.mark.parametrize("processes", [2, 3, 7])
@pytest.mark.parametrize("stride", [1, 2, 3, 7, 1024])
def test_rows_of_any_regular_pattern_are_spread_evenly(processes, stride):
    owners = row_owner(torch.arange(0, 20_000 * stride, stride), processes)
    counts = torch.bincount(owners, minlength=processes)
    assert len(counts) == processes and counts.min() > 0.9 * 20_000 / processes


def test_every_row_lies_in_one_process_where_it_is_located():
    table, ids = torch.randn(50, 3), torch.tensor([0, 1, 7, 8, 30, 49])
    shards = [TableShards(TrainingGroup(rank, 3), {"item": table.shape}) for rank in range(3)]
    total = torch.zeros(6, 3)
    for each in shards:
        place, local = each.locate("item", ids)
        total[place] += each.part("item", table)[local]
    assert torch.equal(total, table[ids])
    assert sum(len(each.part("item", table)) for each in shards) == 50


def test_the_default_size_follows_from_the_memory_of_each_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        one, four = default_limit(TrainingGroup(0, 1)), default_limit(TrainingGroup(0, 1, 0, 4))
    finally:
        dist.destroy_process_group()
    assert one == pytest.approx(4 * four, rel=1e-3) and four > 0
