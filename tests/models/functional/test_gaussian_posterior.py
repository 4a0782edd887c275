"""The posterior of whitened weights, against the textbook; folding in by the smaller side, against the plain system."""

from __future__ import annotations

import pytest
import torch

from recsys_meta.models.functional.gaussian_posterior import (
    fit_gaussian,
    fold_in,
    fold_in_tables,
    gaussian_posterior,
    whitened_posterior,
)
from recsys_meta.models.functional.laplace_posterior import prediction_variance


def test_mean_and_variance_are_those_of_the_joint_gaussian():
    """Conditioning (z, labels) ~ N(0, .) on the labels: the dual form, which shares no step with the primal one."""
    g = torch.Generator().manual_seed(0)
    x, residual = torch.randn(3, 5, 4, generator=g), torch.randn(3, 5, generator=g)
    noise = torch.rand(3, 5, generator=g) + 0.2
    query = torch.randn(3, 6, 4, generator=g)
    z, factor = whitened_posterior(x, residual, 1 / noise)
    gram = x @ x.transpose(1, 2) + torch.diag_embed(noise)
    cross = query @ x.transpose(1, 2)
    mean = (cross @ torch.linalg.solve(gram, residual.unsqueeze(2))).squeeze(2)
    variance = query.square().sum(2) - (cross * torch.linalg.solve(gram, cross.transpose(1, 2)).transpose(1, 2)).sum(2)
    torch.testing.assert_close((query @ z.unsqueeze(2)).squeeze(2), mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prediction_variance(query, factor), variance, rtol=1e-4, atol=1e-5)


def test_rows_without_weight_do_not_count():
    g = torch.Generator().manual_seed(1)
    x, residual = torch.randn(2, 4, 3, generator=g), torch.randn(2, 4, generator=g)
    weight = torch.tensor([1.0, 2.0, 0.0, 0.0]).expand(2, -1)
    whole, part = whitened_posterior(x, residual, weight), whitened_posterior(x[:, :2], residual[:, :2], weight[:, :2])
    for a, b in zip(whole, part, strict=True):
        torch.testing.assert_close(a, b)
    z, factor = whitened_posterior(x[:, :0], residual[:, :0], weight[:, :0])
    assert torch.equal(z, torch.zeros(2, 3)) and torch.equal(factor, torch.eye(3).expand(2, 3, 3))


@pytest.mark.parametrize("rows", [0, 1, 5, 30])
@pytest.mark.parametrize("zeros", [0.0, 0.3])
def test_folding_in_is_the_posterior_whichever_side_is_smaller(rows, zeros):
    g = torch.Generator().manual_seed(2)
    items = torch.randn(40, 8, generator=g)
    body = {"gram": items.T @ items, **fit_gaussian(torch.randn(60, 8, generator=g) + 0.5)}
    vectors, weight = torch.randn(4, rows, 8, generator=g), (torch.rand(4, rows, generator=g) < 0.7).float()
    weight[0] = 0
    tables = fold_in_tables(**body, zeros=zeros, prior=0.7)
    ours = fold_in(tables, vectors, weight, gain=10.0, target=11.0)
    plain = gaussian_posterior(body, vectors, weight, gain=10.0, target=11.0, zeros=zeros, prior=0.7)
    torch.testing.assert_close(ours[1:], plain[1:], rtol=1e-4, atol=1e-5)
    assert torch.equal(ours[0], body["mean"]), "an empty support has the prior's mean"
