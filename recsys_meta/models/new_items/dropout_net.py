"""DropoutNet (Volkovs et al. 2017): a network whose item input, a learned vector, is dropped at random in training, so
that content stands in for it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from recsys_meta.core.types import FloatArray
from recsys_meta.models.new_items.item_task import ItemTask, Scores
from recsys_meta.models.new_items.signals import content_columns, first_user_vectors

DIMS, HIDDEN = 64, 200
BATCH = 256
"""Users and items of a step: all of their pairs."""

STEPS = 1500
RATE, DECAY = 1e-3, 1e-4


def dropout_net(task: ItemTask, *, dropout: float = 0.5) -> Scores:
    """Train on the known items, and score new ones by their content and, where there are any, their first users."""
    users, vectors, known, new = _inputs(task)
    user_net, item_net = task.remember(("dropoutnet", dropout), lambda: _train(users, vectors, known, dropout))
    with torch.no_grad():
        first = torch.from_numpy(np.ascontiguousarray(first_user_vectors(task)[:, :DIMS])) / _size(task)
        items = item_net(torch.cat([first * _scale_of_first(task), new], 1)).numpy()
        return task.by_factors(user_net(users).numpy(), items)


def _inputs(task: ItemTask) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Users [U, D], known items [M, D] and contents of known and new items, all of about unit deviation."""
    users = torch.from_numpy(np.ascontiguousarray(task.space.users[:, :DIMS]))
    vectors = torch.from_numpy(np.ascontiguousarray(task.space.items[:, :DIMS]))
    known, new = (torch.from_numpy(np.asarray(c, np.float32)) for c in content_columns(task, task.content.names))
    width = known.std() + 1e-9
    return users / (users.std() + 1e-9), vectors / _size(task), known / width, new / width


def _size(task: ItemTask) -> float:
    return float(task.space.items[:, :DIMS].std()) + 1e-9


def _train(users: Tensor, vectors: Tensor, known: Tensor, dropout: float) -> tuple[nn.Module, nn.Module]:
    scale = (users[:BATCH] @ vectors[:BATCH].T).std() + 1e-9
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dims = users.shape[1]
        user_net, item_net = _network(dims, DIMS), _network(dims + known.shape[1], DIMS)
        optimizer = torch.optim.AdamW([*item_net.parameters(), *user_net.parameters()], lr=RATE, weight_decay=DECAY)
        for _ in range(STEPS):
            u, i = torch.randint(len(users), (BATCH,)), torch.randint(len(known), (BATCH,))
            given = vectors[i] * (torch.rand(BATCH, 1) >= dropout)
            output = user_net(users[u]) @ item_net(torch.cat([given, known[i]], 1)).T
            loss = (output - users[u] @ vectors[i].T / scale).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return user_net, item_net


def _network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, outputs))


def _scale_of_first(task: ItemTask) -> Tensor:
    """Factors [N, 1] that make the vector of few first users as long as that of a known item's users."""
    typical = len(task.history.indices) / max(len(task.known), 1)
    shots: FloatArray = np.maximum(task.shots, 1)
    return torch.from_numpy((typical / shots).astype(np.float32))[:, None].clamp(min=1)
