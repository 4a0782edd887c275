"""AdamW that updates all parameters of equal settings in one pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class MergedAdamW(torch.optim.AdamW):
    """AdamW over groups of one parameter each, which `step` joins where their rates and weight decays are equal.

    The groups stay as they were given: they number the parameters in checkpoints, and a reader of one finds its own.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step, as AdamW does."""
        groups: list[dict[str, Any]] = self.param_groups
        merged: dict[tuple[float, float], dict[str, Any]] = {}
        for group in groups:
            settings = group["lr"], group["weight_decay"]
            merged.setdefault(settings, {**group, "params": []})["params"] += group["params"]
        self.param_groups = list(merged.values())
        try:
            loss: float | None = super().step(closure)
            return loss
        finally:
            self.param_groups = groups
