"""ANIL (Raghu et al. 2020), "almost no inner loop": the last layer alone adapts.

    w_T = w - a grad_w L(S; w, features)

The layers below it are features that all tasks share, computed once for all steps. With a dot product in place of
layers the entity's vector is that last layer, and `maml` on it is this method.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from recsys_meta.models.learners.maml.maml import Maml, MamlConfig


class AnilConfig(MamlConfig):
    """Configuration of `Anil`: a perceptron, of a ranking under a sampled softmax."""

    adapts: Literal["last"] = "last"
    hidden: tuple[int, ...] = (64, 64)
    negatives: int = 256


@dataclass(frozen=True)
class Anil(Maml):
    """The learner that this module describes."""

    config: AnilConfig = field(default_factory=AnilConfig)
    name: ClassVar[str] = "anil"
    Config: ClassVar[type[MamlConfig]] = AnilConfig
