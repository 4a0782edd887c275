"""Learners by name. A new learner is one file in this package and one line in the dictionary, or an entry point
`recsys_meta.learners` of a package of its own."""

from __future__ import annotations

from typing import Any

from recsys_meta.core.plugin_registry import PluginRegistry
from recsys_meta.models.learners.amortized.episodic_memory import EpisodicMemory
from recsys_meta.models.learners.amortized.linear_adaptation import LinearWeightAdaptation
from recsys_meta.models.learners.amortized.linear_head import BayesianHead, RidgeHead
from recsys_meta.models.learners.amortized.matching import MatchingNetwork
from recsys_meta.models.learners.amortized.neural_process import NeuralProcess
from recsys_meta.models.learners.amortized.prototypical import PrototypicalNetwork
from recsys_meta.models.learners.amortized.relation import BiasAdaptation, RelationNetwork
from recsys_meta.models.learners.amortized.set_transformer import SetTransformer
from recsys_meta.models.learners.amortized.siamese import SiameseNetwork
from recsys_meta.models.learners.bayesian.bernoulli import BernoulliPosterior
from recsys_meta.models.learners.bayesian.gaussian import GaussianPosteriorLearner
from recsys_meta.models.learners.choice.conditional_logit import ConditionalLogit
from recsys_meta.models.learners.choice.din import Din
from recsys_meta.models.learners.choice.gradient_methods import (
    CaviaDin,
    HsmlDin,
    ImplicitMamlDin,
    LearnedOptimizerDin,
    MamlPlusPlusDin,
    MamoDin,
    MetaLstmDin,
    MetaSgdDin,
    ReptileDin,
)
from recsys_meta.models.learners.gradient.anil import Anil
from recsys_meta.models.learners.gradient.boil import Boil
from recsys_meta.models.learners.gradient.cavia import Cavia
from recsys_meta.models.learners.gradient.hsml import Hsml
from recsys_meta.models.learners.gradient.imaml import ImplicitMaml
from recsys_meta.models.learners.gradient.learned_optimizer import LearnedOptimizer
from recsys_meta.models.learners.gradient.maml_pp import MamlPlusPlus
from recsys_meta.models.learners.gradient.mamo import Mamo
from recsys_meta.models.learners.gradient.meta_dropout import MetaDropout
from recsys_meta.models.learners.gradient.meta_lstm import MetaLstm
from recsys_meta.models.learners.gradient.meta_regularization import MetaRegularization
from recsys_meta.models.learners.gradient.meta_sgd import MetaSgd
from recsys_meta.models.learners.gradient.meta_weight_net import MetaWeightNet
from recsys_meta.models.learners.gradient.reptile import Reptile
from recsys_meta.models.learners.maml.maml import Maml
from recsys_meta.models.learners.mixture import ClickMixture
from recsys_meta.models.learners.ranking.flagship import Flagship
from recsys_meta.models.learners.selection.selector import LearnerSelector
from recsys_meta.models.learners.warm_up.cvar import Cvar
from recsys_meta.models.learners.warm_up.meta_embedding import MetaEmbedding
from recsys_meta.models.learners.warm_up.mwuf import Mwuf
from recsys_meta.models.plugin_faults import learner_fault

_BUILTIN: dict[str, type[Any]] = {
    "flagship": Flagship,
    "click-blend": ClickMixture,
    "selector": LearnerSelector,
    "bernoulli": BernoulliPosterior,
    "gaussian-posterior": GaussianPosteriorLearner,
    "choice": ConditionalLogit,
    "maml": Maml,
    "anil": Anil,
    "boil": Boil,
    "meta-sgd": MetaSgd,
    "maml-pp": MamlPlusPlus,
    "meta-weight-net": MetaWeightNet,
    "meta-dropout": MetaDropout,
    "meta-regularization": MetaRegularization,
    "reptile": Reptile,
    "cavia": Cavia,
    "imaml": ImplicitMaml,
    "hsml": Hsml,
    "mamo": Mamo,
    "meta-lstm": MetaLstm,
    "learned-optimizer": LearnedOptimizer,
    "meta-embedding": MetaEmbedding,
    "mwuf": Mwuf,
    "cvar": Cvar,
    "din": Din,
    "meta-sgd-choice": MetaSgdDin,
    "maml-pp-choice": MamlPlusPlusDin,
    "reptile-choice": ReptileDin,
    "imaml-choice": ImplicitMamlDin,
    "cavia-choice": CaviaDin,
    "hsml-choice": HsmlDin,
    "mamo-choice": MamoDin,
    "meta-lstm-choice": MetaLstmDin,
    "learned-optimizer-choice": LearnedOptimizerDin,
    "ridge-head": RidgeHead,
    "bayesian-head": BayesianHead,
    "prototypical": PrototypicalNetwork,
    "siamese": SiameseNetwork,
    "matching": MatchingNetwork,
    "relation": RelationNetwork,
    "lwa": LinearWeightAdaptation,
    "nlba": BiasAdaptation,
    "episodic-memory": EpisodicMemory,
    "neural-process": NeuralProcess,
    "set-transformer": SetTransformer,
}
LEARNERS: PluginRegistry[type[Any]] = PluginRegistry("recsys_meta.learners", "learner", _BUILTIN, learner_fault)
"""Classes of `protocols.Learner`; each is built from its own `Config`."""
