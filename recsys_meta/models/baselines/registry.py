"""Registry of the baselines: those of this project, and the entry points `recsys_meta.baselines` of other packages."""

from __future__ import annotations

from typing import Any

from recsys_meta.core.errors import NotFoundError
from recsys_meta.core.plugin_registry import PluginRegistry
from recsys_meta.models.baselines.base import BaselineConfig
from recsys_meta.models.baselines.choice.item_neighbours import ItemNeighbours
from recsys_meta.models.baselines.choice.local_popularity import LocalPopularity
from recsys_meta.models.baselines.choice.markov import MarkovChain
from recsys_meta.models.baselines.choice.nearest_item import NearestItem
from recsys_meta.models.baselines.choice.pooled_logit import PooledLogit
from recsys_meta.models.baselines.choice.revisit import RevisitFrequency
from recsys_meta.models.baselines.click.bilinear import BilinearModel
from recsys_meta.models.baselines.click.factorization_machine import FactorizationMachine
from recsys_meta.models.baselines.click.logistic_regression import LogisticRegression
from recsys_meta.models.baselines.click.position_bias import ContextOnly, PositionOnly, PositionRate
from recsys_meta.models.baselines.click.random_intercept import RandomIntercept
from recsys_meta.models.baselines.counting.bias_model import ItemMean
from recsys_meta.models.baselines.counting.popularity import ItemPopularity
from recsys_meta.models.baselines.counting.random_scores import RandomScores
from recsys_meta.models.baselines.counting.recent_popularity import RecentPopularity
from recsys_meta.models.baselines.item_based.content_itemknn import ContentItemKNN
from recsys_meta.models.baselines.item_based.ease import Ease
from recsys_meta.models.baselines.item_based.gaussian import GaussianPosterior
from recsys_meta.models.baselines.item_based.itemknn import ItemKNN
from recsys_meta.models.baselines.item_based.naive_bayes import NaiveBayes
from recsys_meta.models.baselines.latent.bayesian_linear_regression import BayesianLinearRegression
from recsys_meta.models.baselines.latent.content import ContentOnly
from recsys_meta.models.baselines.latent.ials import Ials, IalsPrior
from recsys_meta.models.baselines.sequence.sasrec import SasRec
from recsys_meta.models.plugin_faults import name_fault

_BUILTIN: dict[str, type[BaselineConfig]] = {
    "chance": RandomScores,
    "popularity": ItemPopularity,
    "recent": RecentPopularity,
    "item-mean": ItemMean,
    "itemknn": ItemKNN,
    "content-itemknn": ContentItemKNN,
    "ease": Ease,
    "naive-bayes": NaiveBayes,
    "ials": Ials,
    "ials-prior": IalsPrior,
    "gaussian": GaussianPosterior,
    "blr": BayesianLinearRegression,
    "content": ContentOnly,
    "sasrec": SasRec,
    "context": ContextOnly,
    "position": PositionOnly,
    "position-rate": PositionRate,
    "two-means": RandomIntercept,
    "logistic": LogisticRegression,
    "machines": FactorizationMachine,
    "blr-content": BilinearModel,
    "local-popularity": LocalPopularity,
    "nearest": NearestItem,
    "revisits": RevisitFrequency,
    "markov": MarkovChain,
    "local-itemknn": ItemNeighbours,
    "pooled-logit": PooledLogit,
}


def _find_fault(name: str, entry: Any) -> str | None:
    """Fault of a class that a package registers as a baseline; None without one."""
    if not (isinstance(entry, type) and issubclass(entry, BaselineConfig)):
        return "it is no class derived from recsys_meta.models.baselines.BaselineConfig"
    if entry.__abstractmethods__:
        return f"it does not define {', '.join(sorted(entry.__abstractmethods__))}"
    return name_fault(name, entry)


BASELINES: PluginRegistry[type[BaselineConfig]] = PluginRegistry(
    "recsys_meta.baselines", "baseline", _BUILTIN, _find_fault
)


def make_baseline(name: str) -> type[BaselineConfig]:
    """Return the class of a baseline. Raises NotFoundError, which lists the names, for an unknown one, and ConfigError
    for one of an installed package that cannot be used."""
    try:
        return BASELINES[name]
    except KeyError:
        raise NotFoundError(f"there is no baseline '{name}'; known: {', '.join(BASELINES)}") from None
