import math

import pytest
import torch

from recsys_meta.core.types import Interactions
from recsys_meta.models.functional.losses import logistic_loss, softmax_loss, squared_error
from recsys_meta.models.functional.sampled_softmax import sampled_softmax_loss


def rows_of(*tasks, width=None):
    width = width or max((len(t) for t in tasks), default=0)
    item = torch.zeros(len(tasks), width, dtype=torch.int64)
    label, mask = torch.zeros(len(tasks), width), torch.zeros(len(tasks), width, dtype=torch.bool)
    for t, task in enumerate(tasks):
        for column, (i, y) in enumerate(task):
            item[t, column], label[t, column], mask[t, column] = i, y, True
    return Interactions(item, label, mask)


def test_each_loss_is_the_mean_over_a_tasks_own_rows():
    rows = rows_of([(2, 1.0), (3, 0.0), (2, 1.0)], [(4, 1.0)])
    predicted = torch.tensor([[0.5, 1.0, -2.0], [3.0, 77.0, -77.0]])
    sigmoid = [1 / (1 + math.exp(-x)) for x in (0.5, 1.0, -2.0, 3.0)]
    assert squared_error(predicted, rows).tolist() == pytest.approx([(0.25 + 1 + 9) / 3, 4.0])
    wanted = [-(math.log(sigmoid[0]) + math.log(1 - sigmoid[1]) + math.log(sigmoid[2])) / 3, -math.log(sigmoid[3])]
    assert logistic_loss(predicted, rows).tolist() == pytest.approx(wanted)
    logits = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    p = logits.softmax(1)
    wanted = [-(2 * p[0, 2].log() + p[0, 3].log()) / 3, -p[1, 4].log()]
    assert softmax_loss(logits, rows).tolist() == pytest.approx([float(w) for w in wanted], rel=1e-5)


@pytest.mark.parametrize("loss", [squared_error, logistic_loss])
def test_a_task_without_rows_has_no_loss_and_no_gradient(loss):
    predicted = torch.randn(2, 3, requires_grad=True)
    value = loss(predicted, rows_of([(2, 1.0)], [], width=3))
    value.sum().backward()
    assert float(value[1].detach()) == 0 and torch.isfinite(predicted.grad).all() and (predicted.grad[1] == 0).all()
    assert (predicted.grad[0, 1:] == 0).all(), "padding"


def test_a_task_without_rows_has_no_softmax_loss():
    for width in (0, 2):
        logits = torch.randn(2, 5, requires_grad=True)
        value = softmax_loss(logits, rows_of([], [], width=width))
        value.sum().backward()
        assert value.tolist() == [0, 0] and (logits.grad == 0).all()


@pytest.mark.parametrize("skew", [0.0, 1.5])
def test_the_sampled_softmax_estimates_the_full_one(skew):
    """With many negatives the gradient is the full softmax's, whatever they are drawn by; the loss differs from it by
    the positives' log expected count only."""
    g = torch.Generator().manual_seed(0)
    items, draws = 40, 40_000
    logits = torch.randn(1, items, generator=g, requires_grad=True)
    weight = torch.exp(skew * torch.randn(items, generator=g))
    log_q = torch.log(draws * weight / weight.sum())
    rows = rows_of([(5, 1.0), (17, 1.0)])
    full = softmax_loss(logits, rows)
    (wanted,) = torch.autograd.grad(full.sum(), logits)
    drawn = torch.multinomial(weight, draws, replacement=True, generator=g)
    sampled = sampled_softmax_loss(logits[:, rows.item[0]], logits[:, drawn], rows, log_q[drawn], log_q[rows.item])
    (got,) = torch.autograd.grad(sampled.sum(), logits)
    assert torch.allclose(got, wanted, atol=0.02)
    assert float((sampled - log_q[rows.item].mean()).detach()) == pytest.approx(float(full.detach()), abs=0.05)
    # Without the correction the estimate is biased: the test can fail.
    biased = sampled_softmax_loss(
        logits[:, rows.item[0]], logits[:, drawn], rows, torch.zeros(draws), torch.zeros(1, 2)
    )
    (wrong,) = torch.autograd.grad(biased.sum(), logits)
    if skew:
        assert (wrong - wanted).abs().max() > 0.05


def test_the_sampled_softmax_of_no_rows_is_zero():
    value = sampled_softmax_loss(
        torch.zeros(1, 2), torch.zeros(1, 4), rows_of([], width=2), torch.zeros(4), torch.zeros(1, 2)
    )
    assert float(value) == 0
