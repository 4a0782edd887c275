"""A step of the inner loop: which parts it moves, and at what rates.

The *parts* that may adapt are "entity", "rows" (the vectors of the support's items) and the layers "head.0", "head.1",
... A step moves those that it has a rate for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class InnerStep(NamedTuple):
    """One step of gradient descent.

    rates: rate of each part that moves, a number; for "entity" and "rows" also one for each coordinate, [Z] and [V];
    for layers also one for each weight, [in + 1, out] with those of the bias last. keep: share of what earlier steps
    changed that is kept, which a proximal term makes less than 1.
    """

    rates: Mapping[str, Tensor]
    keep: Tensor | None = None


class StepScale(NamedTuple):
    """Numbers that a perceptron multiplies its gradients by.

    All are linear in that of the scores, so that one number on the scores, `scale`, is the rate of most parts;
    `factors` are the rates of the parts over it, None where they are the same. `lowest`: number of the lowest layer in
    whose outputs a gradient is needed.
    """

    scale: Tensor
    factors: Mapping[str, Tensor | None]
    lowest: int

    @classmethod
    def of(cls, step: InnerStep) -> StepScale:
        """Scale of a step."""
        common = _common_rate(step)
        factors = {part: None if rate is common else rate / common for part, rate in step.rates.items()}
        if not {"entity", "rows"}.isdisjoint(factors):
            return cls(-common, factors, 0)
        return cls(-common, factors, min(int(part.removeprefix("head.")) for part in factors))

    def change(self, gradient: Tensor, part: str) -> Tensor:
        """Change of a part, from its scaled gradient."""
        factor = self.factors.get(part)
        return gradient if factor is None else gradient * factor


def _common_rate(step: InnerStep) -> Tensor:
    """Rate that most parts have: that of a layer if one has a single number; 1 where none has."""
    numbers = {part: rate for part, rate in step.rates.items() if not rate.dim()}
    layers = [rate for part, rate in numbers.items() if part.startswith("head.")]
    return next(iter([*layers, *numbers.values()]), next(iter(step.rates.values())).new_ones(()))
