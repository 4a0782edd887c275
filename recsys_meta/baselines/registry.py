"""The baselines by name."""

from __future__ import annotations

from recsys_meta.baselines.base import BaselineConfig
from recsys_meta.baselines.bilinear import Bilinear
from recsys_meta.baselines.blr import Blr
from recsys_meta.baselines.chance import Chance
from recsys_meta.baselines.content import Content
from recsys_meta.baselines.ease import Ease
from recsys_meta.baselines.gaussian import Gaussian
from recsys_meta.baselines.ials import Ials, IalsPrior
from recsys_meta.baselines.item_mean import ItemMean
from recsys_meta.baselines.itemknn import ItemKNN
from recsys_meta.baselines.local_popularity import LocalPopularity
from recsys_meta.baselines.logistic import Logistic
from recsys_meta.baselines.machines import Machines
from recsys_meta.baselines.markov import Markov
from recsys_meta.baselines.naive_bayes import NaiveBayes
from recsys_meta.baselines.nearest import Nearest
from recsys_meta.baselines.neighbours import Neighbours
from recsys_meta.baselines.pooled_logit import PooledLogit
from recsys_meta.baselines.popularity import Popularity
from recsys_meta.baselines.position import Context, Position, PositionRate
from recsys_meta.baselines.recent import Recent
from recsys_meta.baselines.revisits import Revisits
from recsys_meta.baselines.two_means import TwoMeans
from recsys_meta.errors import NotFoundError
from recsys_meta.schema import Objective

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
