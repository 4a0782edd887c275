"""Whole catalogues against lists of candidates: the same scores, losses and gradients, whatever the sizes are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from recsys_meta.core.types import FIRST, UNKNOWN, EntityCatalog
from recsys_meta.evaluation import evaluate_batch as evaluation
from recsys_meta.models.functional.catalogue_features import basic_columns, pays_whole
from recsys_meta.models.functional.choice_features import basic_features, support_summary
from recsys_meta.models.functional.size_groups import SMALL, size_groups
from recsys_meta.models.learners.choice import conditional_logit as choice
from tests.models.learners.cases import generator
from tests.models.learners.test_choice import CLOSE, fresh, mixed, world  # noqa: F401

EXACT = {"rtol": 1e-5, "atol": 1e-5}
SIZES = (24, 3, 17, 24, 1, 9, 24, 12)


def uneven(data):
    """The mixed batch, with catalogues of SIZES items; what was beyond them is unknown."""
    batch = mixed(data)
    kept = FIRST + torch.tensor(SIZES)[:, None]
    catalogue = batch.support.catalogue
    inside = torch.arange(catalogue.item.shape[1]) < kept

    def within(rows):
        item = torch.where(rows.item < kept, rows.item, UNKNOWN)
        return replace(rows, item=item, history=torch.where(rows.history < kept[..., None], rows.history, UNKNOWN))

    small = EntityCatalog(catalogue.item * inside, catalogue.features, catalogue.mask & inside)
    support = replace(batch.support, catalogue=small, rows=within(batch.support.rows))
    return replace(batch, support=support, query=within(batch.query))


def gradients(learner, params, losses):
    every, new = losses
    names = sorted(k for k in params if not learner.is_frozen(k))
    found = torch.autograd.grad(
        (every + 0.5 * new).sum(), [params[k] for k in names], allow_unused=True, retain_graph=True
    )
    return [g for g in found if g is not None]


@pytest.mark.parametrize("negatives", [4, 40], ids=["drawn", "all"])
def test_losses_and_gradients_of_a_catalogue_are_those_of_lists(fresh, world, negatives):  # noqa: F811
    learner, params = fresh
    params = {k: v.clone().requires_grad_(not learner.is_frozen(k)) for k, v in params.items()}
    batch = uneven(world)
    state = learner.adapt(params, batch.support)
    others = choice._sample_candidates(state["listed"], batch.query.item.shape[1], negatives, generator(3))
    if negatives == 4:  # drawn with replacement, so some are there twice
        assert (others[0].sort(1).values.diff(dim=1) == 0).any()
    lists = learner._list_losses(params, state, batch.query, others)
    for losses in (learner._whole_losses, learner._losses):
        got = losses(params, state, batch.query, others)
        torch.testing.assert_close(got, lists, **EXACT)
        torch.testing.assert_close(gradients(learner, params, got), gradients(learner, params, lists), **EXACT)


def test_scores_of_a_catalogue_are_those_of_lists(fresh, world, monkeypatch):  # noqa: F811
    learner, params = fresh
    batch = uneven(world)
    state = learner.adapt(params, batch.support)
    every = torch.arange(batch.support.catalogue.item.shape[1]).flip(0).expand(*batch.query.item.shape, -1)
    few = batch.query.columns(0, 2)  # of two rows, distances are from their histories
    assert pays_whole(state, every.shape[2]) and not pays_whole(state, 2)
    got = [learner.choose(params, state, rows, every[:, : rows.item.shape[1]]) for rows in (batch.query, few)]
    monkeypatch.setattr(choice, "pays_whole", lambda *_: False)
    for scores, rows in zip(got, (batch.query, few), strict=True):
        torch.testing.assert_close(scores, learner.choose(params, state, rows, every[:, : rows.item.shape[1]]), **CLOSE)


def test_metrics_do_not_depend_on_who_is_scored_together(fresh, world, monkeypatch):  # noqa: F811
    learner, params = fresh
    batch, calls = uneven(world), []

    def metrics():
        return evaluation.evaluate_batch(learner, params, world[0], batch, generator(5))

    monkeypatch.setattr(evaluation, "size_groups", lambda sizes: [torch.arange(len(sizes))])
    together = metrics()
    monkeypatch.setattr(
        evaluation, "size_groups", lambda s: (calls.append(1), [torch.tensor([t]) for t in s.argsort().tolist()])[1]
    )
    torch.testing.assert_close(metrics(), together, equal_nan=True)
    assert calls and not together["mrr"].isnan().all()


def test_groups_hold_every_task_once_and_pad_less_than_double():
    sizes = torch.tensor([1931, 65, 3, 130, 64, 128, 1, 700, 1025, 0])
    groups = size_groups(sizes)
    assert torch.cat(groups).sort().values.tolist() == list(range(10))
    for tasks in groups:
        assert sizes[tasks].max() <= max(SMALL, 2 * int(sizes[tasks].min()))
    assert [g.tolist() for g in size_groups(sizes[:1])] == [[0]] and size_groups(sizes[:0])[0].tolist() == []


def test_columns_of_baselines_are_those_of_lists(world):  # noqa: F811
    batch = uneven(world)
    state = support_summary(batch.support)
    every = torch.arange(batch.support.catalogue.item.shape[1]).flip(0).expand(*batch.query.item.shape, -1)
    for rows in (batch.query, batch.query.columns(0, 2)):
        candidates = every[:, : rows.item.shape[1]]
        torch.testing.assert_close(basic_columns(state, rows, candidates), basic_features(state, rows, candidates))
