"""AdamW that joins groups of equal settings moves every parameter as AdamW does, and keeps the groups."""

from __future__ import annotations

import torch

from recsys_meta.training.merged_adamw import MergedAdamW

SETTINGS = ((1e-2, 0.1), (1e-3, 0.1), (1e-2, 0.1), (1e-2, 0.0))
"""Rate and weight decay of each group."""


def groups():
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(3, 2, generator=generator).requires_grad_() for _ in SETTINGS]
    return [{"params": [v], "lr": r, "weight_decay": d} for v, (r, d) in zip(values, SETTINGS, strict=True)]


def test_it_moves_parameters_as_adamw_does_with_the_state_by_the_same_numbers():
    ours, theirs = MergedAdamW(groups(), betas=(0.9, 0.99)), torch.optim.AdamW(groups(), betas=(0.9, 0.99))
    for step in range(4):
        for optimiser in (ours, theirs):
            for i, group in enumerate(optimiser.param_groups):
                group["lr"] *= 0.9
                # The second parameter has no gradient at first.
                (value,) = group["params"]
                value.grad = None if i == 1 and step < 2 else torch.sin(value.detach() * (step + 1))
            optimiser.step()
    assert [g["lr"] for g in ours.param_groups] == [g["lr"] for g in theirs.param_groups]
    for mine, other in zip(ours.param_groups, theirs.param_groups, strict=True):
        torch.testing.assert_close(mine["params"][0], other["params"][0])
    mine, other = ours.state_dict()["state"], theirs.state_dict()["state"]
    assert mine.keys() == other.keys()
    for key, moments in other.items():
        torch.testing.assert_close(mine[key], moments)
