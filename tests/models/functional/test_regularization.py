"""Random masks of training."""

from __future__ import annotations

import torch

from recsys_meta.models.functional.regularization import dropout, mask_features


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_dropout_keeps_the_mean_and_can_be_repeated():
    x = torch.ones(200, 200)
    thinned = dropout(x, 0.3, generator())
    assert torch.equal(thinned, dropout(x, 0.3, generator()))
    assert abs(float(thinned.mean()) - 1) < 0.02
    assert abs(float((thinned == 0).float().mean()) - 0.3) < 0.02
    assert dropout(x, 0.3, None) is x and dropout(x, 0.0, generator()) is x


def test_features_become_unknown_but_never_padding_or_numbers():
    ids = torch.tensor([[2, 3, 0]] * 500)
    features = {"kind": ids, "price": torch.ones(500)}
    masked = mask_features(features, 0.4, generator())
    assert torch.equal(masked["price"], features["price"]) and not masked["kind"][:, 2].any()
    real = masked["kind"][:, :2]
    assert ((real == 1) | (real == ids[:, :2])).all()
    assert abs(float((real == 1).float().mean()) - 0.4) < 0.05
