"""Parts of a meta-batch: what processes compute of it adds up to what one process computes, for every learner."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from recsys_meta.core.types import FIRST
from tests.models.learners.cases import CASES, NAMES, case_of, episodes, generator, trainable

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(params=CASES, ids=NAMES)
def case(request):
    return case_of(*request.param)


def computed(case, batch):
    """Loss, figures, gradients and the generator's state after a meta-loss."""
    params, numbers = trainable(case.learner, case.params), generator(7)
    loss, figures = case.learner.meta_loss(params, batch, case.training_state, numbers)
    if loss.requires_grad:
        loss.backward()
    gradients = {k: v.grad for k, v in params.items() if v.grad is not None}
    return loss.detach(), figures, gradients, numbers.get_state()


@pytest.mark.parametrize("size", [2, 3])
def test_losses_gradients_and_figures_of_parts_add_up(case, size):
    whole = episodes(case.data, case.index, case.split.train[:11].take(range(11), mode="wrap"))
    loss, figures, gradients, state = computed(case, whole)
    parts = [whole.part(rank, size) for rank in range(size)]
    assert sum(len(p.entity) for p in parts) == 11 and sum(p.share for p in parts) == pytest.approx(1)
    results = [computed(case, part) for part in parts]
    torch.testing.assert_close(torch.stack([r[0] for r in results]).sum(), loss, **CLOSE)
    for key, gradient in gradients.items():
        shares = [r[2].get(key, torch.zeros_like(gradient)) for r in results]
        torch.testing.assert_close(torch.stack(shares).sum(0), gradient, **CLOSE)
    assert all(r[1].keys() == figures.keys() for r in results)
    for key, value in figures.items():
        if key.rpartition(".")[2] == "change":  # of the first tasks alone, which are others in each part
            continue
        mean = sum(r[1][key] * p.share for r, p in zip(results, parts, strict=True))
        torch.testing.assert_close(mean, value, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(r[3], state) for r in results), "each part draws what the whole draws"


def test_a_member_of_a_mixture_may_have_no_task_in_a_part():
    """The member is limited to 8 tasks; the last three of eleven processes have none of them."""
    case = case_of("click-blend", "two")
    whole = episodes(case.data, case.index, case.split.train[:11])
    loss, _, gradients, state = computed(case, whole)
    results = [computed(case, whole.part(rank, 11)) for rank in range(11)]
    torch.testing.assert_close(torch.stack([r[0] for r in results]).sum(), loss, **CLOSE)
    assert all(torch.equal(r[3], state) for r in results)
    for key, gradient in gradients.items():
        shares = [r[2].get(key, torch.zeros_like(gradient)) for r in results]
        torch.testing.assert_close(torch.stack(shares).sum(0), gradient, **CLOSE)


def test_a_part_knows_its_place():
    batch = case_of("choice", "default").batch
    part = batch.part(1, 3)
    assert part.whole is batch and batch.whole is batch
    assert torch.equal(part.entity, batch.entity[1::3]) and torch.equal(part.own(batch.query.item), part.query.item)
    assert torch.equal(part.support.catalogue.item, batch.support.catalogue.item[1::3])
    assert all(torch.equal(v, batch.support.features[k][1::3]) for k, v in part.support.features.items())
    moved = part.to(torch.device("meta"))
    assert moved.shard.rank == 1 and moved.whole.entity.device.type == "meta"
    other = replace(batch, query=batch.query.first(2))
    assert torch.equal(part.part_of(other).query.item, other.query.item[1::3]) and batch.part_of(other) is other
    assert (part.query.item[part.query.mask] >= FIRST).all()
