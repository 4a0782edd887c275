"""Methods of `gradient` for choices: each in front of the deep interest network.

What no class is needed for is in recipes of `din`: ANIL (`adapts = "last"`), BOIL (`"body"`), MAML of both orders and
Alpha-MAML. Methods that act on the entity's vector (CAVIA, HSML, MAMO, the learned optimisers) give the network one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import Field

from recsys_meta.core.types import Params
from recsys_meta.models.learners.choice.din import Din, DinConfig
from recsys_meta.models.learners.gradient.cavia import CaviaMethod, CaviaSettings
from recsys_meta.models.learners.gradient.coordinate_network import CoordinateNetworkSettings
from recsys_meta.models.learners.gradient.hsml import HsmlMethod, HsmlSettings
from recsys_meta.models.learners.gradient.imaml import ImplicitMamlMethod, ImplicitMamlSettings
from recsys_meta.models.learners.gradient.learned_optimizer import LearnedOptimizerMethod
from recsys_meta.models.learners.gradient.maml_pp import MamlPlusPlusMethod, MamlPlusPlusSettings
from recsys_meta.models.learners.gradient.mamo import MamoMethod, MamoSettings
from recsys_meta.models.learners.gradient.meta_lstm import MetaLstmMethod
from recsys_meta.models.learners.gradient.meta_sgd import MetaSgdMethod
from recsys_meta.models.learners.gradient.reptile import ReptileMethod, ReptileSettings


class AdaptiveDinConfig(DinConfig):
    """Configuration of a deep interest network of which a method adapts the weights, at rates that are learned."""

    adapts: Literal["entity", "head", "last", "body", "all"] = "all"
    rate: float = Field(default=3e-2, gt=0)
    learned_rate: bool = True


class EntityDinConfig(DinConfig):
    """Configuration of a deep interest network with a vector of the entity, which a method adapts."""

    adapts: Literal["entity", "head", "last", "body", "all"] = "entity"
    entity_dims: int = Field(default=16, ge=1)
    rate: float = Field(default=1.0, gt=0)
    learned_rate: bool = True


@dataclass(frozen=True)
class MetaSgdDin(MetaSgdMethod, Din):
    """Meta-SGD for choices."""

    config: AdaptiveDinConfig = field(default_factory=AdaptiveDinConfig)
    name: ClassVar[str] = "meta-sgd-choice"
    Config: ClassVar[type[DinConfig]] = AdaptiveDinConfig


class MamlPlusPlusDinConfig(MamlPlusPlusSettings, AdaptiveDinConfig):
    """Configuration of `MamlPlusPlusDin`."""


@dataclass(frozen=True)
class MamlPlusPlusDin(MamlPlusPlusMethod, Din):
    """MAML++ for choices."""

    config: MamlPlusPlusDinConfig = field(default_factory=MamlPlusPlusDinConfig)
    progress: float = 1.0
    name: ClassVar[str] = "maml-pp-choice"
    Config: ClassVar[type[DinConfig]] = MamlPlusPlusDinConfig


class ReptileDinConfig(ReptileSettings, AdaptiveDinConfig):
    """Configuration of `ReptileDin`."""


@dataclass(frozen=True)
class ReptileDin(ReptileMethod, Din):
    """Reptile for choices."""

    config: ReptileDinConfig = field(default_factory=ReptileDinConfig)
    name: ClassVar[str] = "reptile-choice"
    Config: ClassVar[type[DinConfig]] = ReptileDinConfig


class ImplicitMamlDinConfig(ImplicitMamlSettings, AdaptiveDinConfig):
    """Configuration of `ImplicitMamlDin`."""


@dataclass(frozen=True)
class ImplicitMamlDin(ImplicitMamlMethod, Din):
    """iMAML for choices."""

    config: ImplicitMamlDinConfig = field(default_factory=ImplicitMamlDinConfig)
    name: ClassVar[str] = "imaml-choice"
    Config: ClassVar[type[DinConfig]] = ImplicitMamlDinConfig


class CaviaDinConfig(CaviaSettings, EntityDinConfig):
    """Configuration of `CaviaDin`."""

    adapts: Literal["entity"] = "entity"


@dataclass(frozen=True)
class CaviaDin(CaviaMethod, Din):
    """CAVIA for choices."""

    config: CaviaDinConfig = field(default_factory=CaviaDinConfig)
    name: ClassVar[str] = "cavia-choice"
    Config: ClassVar[type[DinConfig]] = CaviaDinConfig

    def body(self, params: Params) -> Params:
        return self.with_context(super().body(params))


class HsmlDinConfig(HsmlSettings, EntityDinConfig):
    """Configuration of `HsmlDin`."""


@dataclass(frozen=True)
class HsmlDin(HsmlMethod, Din):
    """HSML for choices."""

    config: HsmlDinConfig = field(default_factory=HsmlDinConfig)
    name: ClassVar[str] = "hsml-choice"
    Config: ClassVar[type[DinConfig]] = HsmlDinConfig


class MamoDinConfig(MamoSettings, EntityDinConfig):
    """Configuration of `MamoDin`."""

    scale: float = Field(default=0.1, gt=0, description="deviation of fresh memories of features")


@dataclass(frozen=True)
class MamoDin(MamoMethod, Din):
    """MAMO for choices."""

    config: MamoDinConfig = field(default_factory=MamoDinConfig)
    name: ClassVar[str] = "mamo-choice"
    Config: ClassVar[type[DinConfig]] = MamoDinConfig


class CoordinateDinConfig(CoordinateNetworkSettings, EntityDinConfig):
    """Configuration of the learned optimisers for choices."""

    adapts: Literal["entity"] = "entity"
    order: Literal[1] = 1


@dataclass(frozen=True)
class MetaLstmDin(MetaLstmMethod, Din):
    """Meta-LSTM for choices."""

    config: CoordinateDinConfig = field(default_factory=CoordinateDinConfig)
    name: ClassVar[str] = "meta-lstm-choice"
    Config: ClassVar[type[DinConfig]] = CoordinateDinConfig


@dataclass(frozen=True)
class LearnedOptimizerDin(LearnedOptimizerMethod, Din):
    """Gradient descent as a learner for choices."""

    config: CoordinateDinConfig = field(default_factory=CoordinateDinConfig)
    name: ClassVar[str] = "learned-optimizer-choice"
    Config: ClassVar[type[DinConfig]] = CoordinateDinConfig
