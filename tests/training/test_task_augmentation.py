"""Augmented episodes: what changes, how often, and what stays true."""

from dataclasses import replace

import pytest
import torch

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import Interactions, Support, TaskBatch
from recsys_meta.training.recipe import AugmentationConfig
from recsys_meta.training.task_augmentation import augment_tasks, check_augmentation

TASKS, ROWS = 400, 12


def generator():
    return torch.Generator().manual_seed(4)


@pytest.fixture
def batch():
    """Rows that say whose they are: items of task t are t * 100 + row, labels 0 and 1 in turn."""
    item = torch.arange(TASKS)[:, None] * 100 + torch.arange(2 * ROWS) + 2
    rows = Interactions(
        item, (item % 2).float(), torch.arange(2 * ROWS) % ROWS < torch.arange(TASKS)[:, None] % ROWS + 1
    )
    features = {"age": torch.arange(TASKS).float()}
    return TaskBatch(torch.arange(TASKS), Support(features, rows.first(ROWS)), rows.columns(ROWS, 2 * ROWS))


def augment(batch, objective="rating", **settings):
    return augment_tasks(batch, AugmentationConfig(**settings), objective, generator())


def test_without_settings_nothing_is_drawn(batch):
    source = generator()
    before = source.get_state()
    assert augment_tasks(batch, AugmentationConfig(), "ranking", source) is batch
    assert torch.equal(source.get_state(), before)


def test_a_share_of_support_rows_is_left_out(batch):
    after = augment(batch, drop_rows=0.3)
    was, now = batch.support.rows.mask, after.support.rows.mask
    assert not (now & ~was).any() and now.sum() / was.sum() == pytest.approx(0.7, abs=0.04)
    assert torch.equal(after.query.mask, batch.query.mask)


def test_labels_of_supports_are_disturbed_and_those_of_queries_are_not(batch):
    noisy = augment(batch, label_noise=0.5)
    change = noisy.support.rows.label - batch.support.rows.label
    assert change.std() == pytest.approx(0.5, abs=0.03) and change.mean() == pytest.approx(0, abs=0.03)
    turned = augment(batch, "click", label_noise=0.2)
    differs = turned.support.rows.label != batch.support.rows.label
    assert differs.float().mean() == pytest.approx(0.2, abs=0.03) and set(
        turned.support.rows.label.unique().tolist()
    ) == {0, 1}
    for after in (noisy, turned):
        assert torch.equal(after.query.label, batch.query.label)


def test_a_mixed_task_takes_half_of_its_rows_of_one_other(batch):
    after = augment(batch, "ranking", mix=0.25)
    is_mixed = torch.zeros(TASKS, dtype=torch.bool)
    for before, rows in ((batch.support.rows, after.support.rows), (batch.query, after.query)):
        owner = (rows.item - 2) // 100
        is_foreign = owner != torch.arange(TASKS)[:, None]
        is_mixed |= is_foreign.any(1)
        assert is_foreign[is_foreign.any(1)].float().mean() == pytest.approx(0.5, abs=0.06)
        foreign = owner.masked_fill(~is_foreign, 0)
        assert torch.equal(foreign.amax(1)[:, None].expand_as(foreign)[is_foreign], foreign[is_foreign])
        column = (rows.item - 2) % 100 % ROWS  # a row goes with its label and its mask
        assert torch.equal(rows.label, (rows.item % 2).float()) and torch.equal(rows.mask, column <= owner % ROWS)
        assert torch.equal(rows.item[~is_foreign], before.item[~is_foreign])
    assert is_mixed.float().mean() == pytest.approx(0.25, abs=0.07)
    assert torch.equal(after.support.features["age"], batch.support.features["age"])


def test_what_a_row_has_beside_goes_with_it(batch):
    def rich(rows):
        return replace(rows, context={"hour": rows.item}, history=rows.item[:, :, None].expand(-1, -1, 3))

    rows = rich(batch.support.rows)
    whole = replace(batch, support=replace(batch.support, rows=rows), query=rich(batch.query))
    after = augment(whole, "click", mix=1.0).support.rows
    assert torch.equal(after.context["hour"], after.item)
    assert torch.equal(after.history, after.item[:, :, None].expand(-1, -1, 3))


@pytest.mark.parametrize(
    ("objective", "settings", "word"),
    [
        ("choice", {"mix": 0.1}, "catalogues of their own"),
        ("ranking", {"label_noise": 0.1}, "no labels"),
        ("choice", {"label_noise": 0.1}, "no labels"),
        ("click", {"label_noise": 1.5}, "at most 1"),
    ],
)
def test_settings_without_a_meaning_are_refused(objective, settings, word):
    with pytest.raises(ConfigError, match=word):
        check_augmentation(AugmentationConfig(**settings), objective)
    check_augmentation(AugmentationConfig(), objective)
