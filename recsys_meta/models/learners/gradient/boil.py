"""BOIL (Oh et al. 2021), "body only update in the inner loop": all but the last layer adapts.

    v_T = v - a grad_v L(S; v, w),   w_T = w

v are the entity's vector and the hidden layers, w the last layer: a task has to find its place in a space that is read
alike for all. The opposite of ANIL.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from recsys_meta.models.learners.maml.maml import Maml, MamlConfig


class BoilConfig(MamlConfig):
    """Configuration of `Boil`: a perceptron, of a ranking under a sampled softmax."""

    adapts: Literal["body"] = "body"
    hidden: tuple[int, ...] = (64, 64)
    negatives: int = 256


@dataclass(frozen=True)
class Boil(Maml):
    """The learner that this module describes."""

    config: BoilConfig = field(default_factory=BoilConfig)
    name: ClassVar[str] = "boil"
    Config: ClassVar[type[MamlConfig]] = BoilConfig
