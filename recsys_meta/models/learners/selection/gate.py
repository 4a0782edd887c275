"""Gate: a softmax over learners, trained by gradient on episodes.

    share = softmax(x W + b),   score_i = sum over members m of share_m z_m(i)

minimises the mean loss of the mixture on the query plus strength * |W|^2, by Adam, from equal shares on. A mixture of
experts (Jacobs, Jordan, Nowlan and Hinton 1991) whose experts are trained already. What it was after some of the steps
is kept, so that the number of steps is chosen as the strength is: early stopping.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys_meta.models.learners.selection.linear_shares import LinearShares
from recsys_meta.models.learners.selection.selection_episodes import SelectionEpisodes

CHECKPOINTS = (8, 20, 40)
"""Steps after which the gate is kept."""
RATE = 0.15


def fit_gate(episodes: SelectionEpisodes, used: Tensor, strength: float, seed: int) -> list[LinearShares]:
    """Fit gates that read the used [D] meta-features, one for each of CHECKPOINTS; `seed` has no influence."""
    features = episodes.features * used
    weight = torch.zeros(features.shape[1], episodes.members, requires_grad=True)
    bias, sharpness = (torch.zeros(n, requires_grad=True) for n in (episodes.members, 1))
    optimizer = torch.optim.Adam([weight, bias, sharpness], RATE)
    kept = []
    for step in range(1, max(CHECKPOINTS) + 1):
        optimizer.zero_grad()
        with torch.enable_grad():
            shares = torch.softmax(features @ weight + bias, 1)
            loss = episodes.losses(shares, sharpness.exp()).mean() + strength * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step in CHECKPOINTS:
            kept.append(LinearShares(weight.detach().clone() * used[:, None], bias.detach().clone(), torch.zeros(1)))
    return kept
