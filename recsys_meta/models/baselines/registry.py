"""The baselines by name."""

from __future__ import annotations

from recsys_meta.core.errors import NotFoundError
from recsys_meta.core.schema import Objective
from recsys_meta.models.baselines.base import BaselineConfig
from recsys_meta.models.baselines.choice.item_neighbours import Neighbours
from recsys_meta.models.baselines.choice.local_popularity import LocalPopularity
from recsys_meta.models.baselines.choice.markov import Markov
from recsys_meta.models.baselines.choice.nearest_item import Nearest
from recsys_meta.models.baselines.choice.pooled_logit import PooledLogit
from recsys_meta.models.baselines.choice.revisit import Revisits
from recsys_meta.models.baselines.click.bilinear import Bilinear
from recsys_meta.models.baselines.click.factorization_machine import Machines
from recsys_meta.models.baselines.click.logistic_regression import Logistic
from recsys_meta.models.baselines.click.position_bias import Context, Position, PositionRate
from recsys_meta.models.baselines.click.random_intercept import TwoMeans
from recsys_meta.models.baselines.counting.bias_model import ItemMean
from recsys_meta.models.baselines.counting.popularity import Popularity
from recsys_meta.models.baselines.counting.random_scores import Chance
from recsys_meta.models.baselines.counting.recent_popularity import Recent
from recsys_meta.models.baselines.item_based.ease import Ease
from recsys_meta.models.baselines.item_based.gaussian import Gaussian
from recsys_meta.models.baselines.item_based.itemknn import ItemKNN
from recsys_meta.models.baselines.item_based.naive_bayes import NaiveBayes
from recsys_meta.models.baselines.latent.bayesian_linear_regression import Blr
from recsys_meta.models.baselines.latent.content import Content
from recsys_meta.models.baselines.latent.ials import Ials, IalsPrior

BASELINES: dict[str, type[BaselineConfig]] = {
    "chance": Chance,
    "popularity": Popularity,
    "recent": Recent,
    "item-mean": ItemMean,
    "itemknn": ItemKNN,
    "ease": Ease,
    "naive-bayes": NaiveBayes,
    "ials": Ials,
    "ials-prior": IalsPrior,
    "gaussian": Gaussian,
    "blr": Blr,
    "content": Content,
    "context": Context,
    "position": Position,
    "position-rate": PositionRate,
    "two-means": TwoMeans,
    "logistic": Logistic,
    "machines": Machines,
    "blr-content": Bilinear,
    "local-popularity": LocalPopularity,
    "nearest": Nearest,
    "revisits": Revisits,
    "markov": Markov,
    "local-itemknn": Neighbours,
    "pooled-logit": PooledLogit,
}


def baseline(name: str) -> type[BaselineConfig]:
    """A baseline by name; NotFoundError lists those there are."""
    try:
        return BASELINES[name]
    except KeyError:
        raise NotFoundError(f"there is no baseline '{name}'; known: {', '.join(BASELINES)}") from None


def serving(objective: Objective) -> list[str]:
    """Names of the baselines that serve an objective, in the order of the registry."""
    return [name for name, kind in BASELINES.items() if objective in kind.objectives]
