"""Probe entities, to find out how a model scores its items."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys_meta.core.types import FIRST
from recsys_meta.inference.requests.entity import EntityRequest, Interaction

MOST_PROBES = 256
LEAST_PROBES = 16
PROBE_SIZES = (1, 3, 5, 10, 20)
"""Numbers of events of probes that resemble entities."""
SIZED_PROBES = 32
"""Probes of each number of events, at most."""
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


def sized_probe_requests(names: Sequence[str], popularity: Tensor) -> list[list[EntityRequest]]:
    """Make two lists of probes for each of `PROBE_SIZES`, whose items are drawn by their popularity scores [C]."""
    count = max(2, min(SIZED_PROBES, MOST_SCORES // max(len(names), 1)))
    chance = (popularity[FIRST:].double().expm1().clamp(min=0) + 1e-3).expand(count, -1)
    generator = torch.Generator().manual_seed(0)
    requests: list[list[EntityRequest]] = []
    for size in PROBE_SIZES * 2:
        drawn = torch.multinomial(chance, min(size, len(names)), generator=generator).tolist()
        requests.append([EntityRequest(events=[Interaction(names[i]) for i in row]) for row in drawn])
    return requests
