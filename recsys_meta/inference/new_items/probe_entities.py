"""Probe entities: each with one event, to find out how a model scores its items."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys_meta.core.types import FIRST
from recsys_meta.inference.requests.entity import EntityRequest, Interaction

MOST_PROBES = 256
LEAST_PROBES = 16
MOST_SCORES = 1 << 24
"""Scores of all probes that are held at a time: 64 MiB."""


def probe_requests(names: Sequence[str], popularity: Tensor, label: float) -> list[EntityRequest]:
    """Make probes whose items are drawn by the root of their popularity [C], without repetition."""
    count = min(len(names), max(LEAST_PROBES, min(MOST_PROBES, MOST_SCORES // max(len(names), 1))))
    chance = popularity[FIRST:].double().clamp(min=0).sqrt() + 1e-3
    if not count:
        return []
    items = torch.multinomial(chance, count, generator=torch.Generator().manual_seed(0)).tolist()
    return [EntityRequest(events=[Interaction(names[i], label)]) for i in items]
