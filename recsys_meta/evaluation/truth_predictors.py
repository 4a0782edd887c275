"""Predictors that know a simulated world: the oracle, and the Bayes-optimal prediction given the support.

Both know the items of the world as its simulator made them: latent factors, popularity, trends, effects of the context.
The *oracle* knows the taste of the new entity as well, so nothing ranks better. The *Bayes-optimal* predictor knows
what anybody could know: the distribution of tastes given the entity's features, and the support. It averages over the
posterior, so no method that is given the same support does better on average; that is the bound of a cold-start curve.

What only one of them may know of an entity reaches it as numeric features of its own copy of the data set, which no
other method is given: the taste itself, or its mean given the features. A taste has D coordinates here: those of the
simulator and, as the last, twice the arrival less one, by which trends are multiplied. Nothing in a support says when
an entity arrived, so that coordinate is uniform from -1 to 1 for the Bayes-optimal predictor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.dataset import Dataset, FeatureColumn
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import Order
from recsys_meta.core.types import FIRST, FloatArray, IntArray, Interactions, Params, State, Support
from recsys_meta.data import ClickTruth, GroundTruth
from recsys_meta.data.simulators.latent_factors import TextArray
from recsys_meta.evaluation.taste_posterior import (
    ChoiceLikelihood,
    ClickLikelihood,
    TasteLikelihood,
    VectorPrior,
    block_size,
    sample_posterior,
)
from recsys_meta.models.protocols import Predictor, PredictorConfig

ROW_COUNTS, RATE_STEPS, DEPTH = 3, 2, 10
"""Numbers of rows that the gain is averaged over, Newton steps for each, and the depth of the nDCG."""
_TASTE, _CONTEXT = "taste.", "context."


@dataclass(frozen=True)
class TruthBound:
    """Predictor that knows the world, its parameters, and the copy of the data set that it is to be evaluated on."""

    name: str
    predictor: Predictor
    params: Params
    data: Dataset


def truth_bounds(data: Dataset, truth: GroundTruth, order: Order | None = None) -> tuple[TruthBound, TruthBound]:
    """Build the oracle and the Bayes-optimal predictor for a data set that was simulated from a world.

    Raises ConfigError where the rows that methods see are not those that the world drew: for other objectives than
    rankings of all rows and clicks, and for rankings with supports at random (`order`).
    """
    schema, is_click = data.schema, isinstance(truth, ClickTruth)
    if schema.objective != ("click" if is_click else "ranking") or schema.positive is not None:
        raise ConfigError("the truth is known of the rows that the simulator draws, not of ratings or a part of them")
    if not is_click and (order or schema.order) != "time":
        raise ConfigError("the truth is known of supports in the order of choice: evaluate with --order time")
    params = world_parameters(data, truth)
    entity = _numbers_of(truth.entity_ids, data, "entity")
    arrival = 2 * truth.arrival[entity, None] - 1
    tastes = np.concatenate([truth.taste[entity], arrival], 1)
    means = np.concatenate([truth.prior.mean[entity], np.zeros_like(arrival)], 1)
    bayes: Predictor = BayesClickPredictor() if is_click else BayesRankingPredictor()
    return (
        TruthBound(OraclePredictor.name, OraclePredictor(), params, with_tastes(data, tastes)),
        TruthBound(bayes.name, bayes, params, with_tastes(data, means)),
    )


def world_parameters(data: Dataset, truth: GroundTruth) -> Params:
    """Parameters of a world: design [I, D] and offset [I] of its items, item [C] (the number of each padded id in the
    world, 0 for the two reserved ones), std [D], is_uniform [D], row_counts [E] in ascending order and, for each field
    of the context that matters, its effects [V] by padded id."""
    dims = truth.taste.shape[1]
    effects = truth.context_effects() if isinstance(truth, ClickTruth) else {}
    return {
        "design": torch.from_numpy(np.column_stack([truth.latent, truth.trend])),
        "offset": torch.from_numpy(truth.popularity),
        "item": torch.from_numpy(np.concatenate([np.zeros(FIRST, int), _numbers_of(truth.item_ids, data, "item")])),
        "std": torch.tensor([truth.prior.std] * dims + [3**-0.5], dtype=torch.float64),
        "is_uniform": torch.tensor([False] * dims + [True]),
        "row_counts": torch.from_numpy(np.sort(truth.row_counts)),
        **{_CONTEXT + name: _effect_table(data, name, values) for name, values in effects.items()},
    }


def _numbers_of(ids: TextArray, data: Dataset, space: str) -> IntArray:
    """Numbers in the world, whose sorted ids are given, of all values of an id space of the data set.

    Raises ConfigError if the data set has ids that the world lacks.
    """
    names = np.array(data.vocab.values[space], dtype=str)
    number = np.searchsorted(ids, names).clip(max=len(ids) - 1)
    if not np.array_equal(ids[number], names):
        raise ConfigError(f"this data set was not simulated from this world: it has another {space}")
    return number


def _effect_table(data: Dataset, name: str, effects: Mapping[str, float]) -> Tensor:
    values = [effects[str(value)] for value in data.vocab.values[_CONTEXT + name]]
    return torch.tensor([0.0] * FIRST + values, dtype=torch.float64)


def with_tastes(data: Dataset, tastes: FloatArray) -> Dataset:
    """Copy of a data set whose entities have the coordinates of tastes [E, D] as numeric features besides."""
    columns = {f"{_TASTE}{d}": column.astype(np.float32) for d, column in enumerate(tastes.T)}
    return replace(data, entities={**data.entities, **{k: FeatureColumn(k, v) for k, v in columns.items()}})


def _tastes_of(body: Params, features: Mapping[str, Tensor]) -> Tensor:
    """Tastes [T, D] that the features of `with_tastes` hold."""
    return torch.stack([features[f"{_TASTE}{d}"] for d in range(len(body["std"]))], 1).double()


def _row_terms(body: Params, rows: Interactions) -> tuple[Tensor, Tensor]:
    """Design [T, R, D] and offset [T, R] of rows, the effects of their context included."""
    item = body["item"][rows.item]
    effects = [table[rows.context[k.removeprefix(_CONTEXT)]] for k, table in body.items() if k.startswith(_CONTEXT)]
    return body["design"][item], body["offset"][item] + sum(effects)


@dataclass(frozen=True)
class OraclePredictor:
    """Utility of items for an entity of known taste. The support changes nothing."""

    name: ClassVar[str] = "oracle"

    @property
    def config(self) -> PredictorConfig:
        return PredictorConfig()

    def body(self, params: Params) -> Params:
        """Return the parameters."""
        return params

    def adapt(self, body: Params, support: Support) -> State:
        """Take the tastes [T, D] from the features; the rows are not looked at."""
        return {"taste": _tastes_of(body, support.features)}

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        """Utilities [T, R] of rows; for clicks these are the true logits."""
        design, offset = _row_terms(body, rows)
        return ((design * state["taste"][:, None]).sum(-1) + offset).float()

    def rank(self, body: Params, state: State) -> Tensor:
        """Utilities [T, C] of the whole catalogue, without any effect of a context."""
        utility = state["taste"] @ body["design"].T + body["offset"]
        return utility[:, body["item"]].float()

    def support_loss(self, body: Params, state: State, support: Support) -> Tensor:
        """Mean [T] of the negative utilities of the support, 0 for an empty one."""
        score = self.score(body, state, support.rows) * support.rows.mask
        return -score.sum(1) / support.rows.counts.clamp(min=1)


class BayesConfig(PredictorConfig):
    """Number of samples of each posterior, and the factor by which their proposal is wider than Laplace's."""

    samples: int = 512
    spread: float = 1.1


@dataclass(frozen=True)
class _BayesPredictor(ABC):
    """Base of the Bayes-optimal predictors: a state is the weighted samples of the posterior of the taste."""

    name: ClassVar[str] = "bayes"
    config: BayesConfig = field(default_factory=BayesConfig)

    def body(self, params: Params) -> Params:
        """Return the parameters."""
        return params

    @abstractmethod
    def likelihood(self, body: Params, rows: Interactions) -> TasteLikelihood:
        """Likelihood of support rows."""

    def adapt(self, body: Params, support: Support) -> State:
        """Sample the posterior: taste [T, M, D] and log_weight [T, M]; count [T] and item [T, S] of the support."""
        prior = VectorPrior(_tastes_of(body, support.features), body["std"], body["is_uniform"])
        likelihood = self.likelihood(body, support.rows)
        taste, log_weight = sample_posterior(likelihood, prior, self.config.samples, spread=self.config.spread)
        item = support.rows.item * support.rows.mask
        return {"taste": taste, "log_weight": log_weight, "count": support.rows.counts, "item": item}

    def support_loss(self, body: Params, state: State, support: Support) -> Tensor:
        """Mean over the posterior of the negative log-likelihood [T] of the support."""
        log_likelihood = self.likelihood(body, support.rows).log_likelihood(state["taste"])
        return -(log_likelihood * state["log_weight"].exp()).sum(1).float()


@dataclass(frozen=True)
class BayesRankingPredictor(_BayesPredictor):
    """Bayes-optimal ranking of what is chosen after the support.

    The score of an item is its expected share of the nDCG: the posterior mean of its probability to be among the rows
    after the support, divided by the best possible gain for so many rows. Ranking by it maximises the expected nDCG,
    which is a sum over items. Given a taste and the number of rows, items are chosen as if each waited for an
    exponential time with rate exp(utility) and the first ones counted, so the probability is 1 - exp(-rate * t) with
    the t for which the probabilities sum to the number of rows (exact for many items, Rosen 1972). The number of rows
    is that of an entity of the world that has more than the support.
    """

    def likelihood(self, body: Params, rows: Interactions) -> ChoiceLikelihood:
        """Likelihood of the items of the support in the order of choice."""
        return _choice_likelihood(body, rows.item, rows.mask)

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        """Expected gains [T, R] of the items of rows."""
        return self.rank(body, state).gather(1, rows.item)

    def rank(self, body: Params, state: State) -> Tensor:
        """Expected gains [T, C] of the whole catalogue, 0 for the reserved ids and the items of the support."""
        is_left = _choice_likelihood(body, state["item"], state["item"] >= FIRST).is_left
        rows_left = _rows_left(body["row_counts"], state["count"].long())
        size = block_size(state["taste"], len(body["offset"]))
        gain = torch.zeros(is_left.shape, device=is_left.device)
        blocks = zip(*(torch.split(state[k], size, 1) for k in ("taste", "log_weight")), strict=True)
        for taste, log_weight in blocks:
            utility = (taste @ body["design"].T + body["offset"]).masked_fill(~is_left[:, None], -torch.inf)
            rate = (utility - utility.amax(-1, keepdim=True)).exp().float()
            gain += (_expected_gain(rate, rows_left) * log_weight.exp().float()[..., None]).sum(1)
        scores = gain[:, body["item"]]
        scores[:, :FIRST] = 0.0
        return scores


def _choice_likelihood(body: Params, item: Tensor, mask: Tensor) -> ChoiceLikelihood:
    is_item = mask & (item >= FIRST)
    return ChoiceLikelihood(body["design"], body["offset"], body["item"][item * is_item], is_item)


def _rows_left(row_counts: Tensor, count: Tensor) -> Tensor:
    """Numbers of rows after `count` [T] rows, [T, J] ascending: quantiles among the entities that have more."""
    below = torch.searchsorted(row_counts, count, right=True)[:, None]
    level = (torch.arange(ROW_COUNTS, device=count.device) + 0.5) / ROW_COUNTS
    position = below + ((len(row_counts) - below) * level).long()
    return (row_counts[position.clamp(max=len(row_counts) - 1)] - count[:, None]).clamp(min=1)


def _expected_gain(rate: Tensor, rows_left: Tensor) -> Tensor:
    """Mean over the numbers of rows [T, J] of the gain [T, M, I] of items that are chosen at some rate [T, M, I]."""
    discount = 1 / torch.log2(torch.arange(2, DEPTH + 2, device=rate.device))
    ideal = functional.pad(discount.cumsum(0), (1, 0))[rows_left.clamp(max=DEPTH)]
    total, items = rate.sum(-1, keepdim=True), (rate > 0).sum(-1, keepdim=True)
    time, gain = torch.zeros_like(total), torch.zeros_like(rate)
    for j in range(ROW_COUNTS):
        target = torch.minimum(rows_left[:, j, None, None], items - 0.5)
        time = torch.maximum(time, target / total)
        for _ in range(RATE_STEPS):  # the sum is concave in the time, so Newton's steps from below stay below
            decay = (-time * rate).exp()
            time = time + (target - (1 - decay).sum(-1, keepdim=True)) / (rate * decay).sum(-1, keepdim=True)
        gain += -torch.expm1(-time * rate) / ideal[:, j, None, None]
    return gain / ROW_COUNTS


@dataclass(frozen=True)
class BayesClickPredictor(_BayesPredictor):
    """Bayes-optimal probability of a click: the posterior mean of the true one.

    Taking arrivals as uniform is an approximation here, since the first list of an entity is the earliest of several.
    """

    def likelihood(self, body: Params, rows: Interactions) -> ClickLikelihood:
        """Likelihood of the labels of the support."""
        design, offset = _row_terms(body, rows)
        return ClickLikelihood(design, offset, rows.label.double(), rows.mask)

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        """Logits [T, R] of the posterior mean of the probabilities."""
        design, offset = _row_terms(body, rows)
        return self._logit(state, design, offset)

    def rank(self, body: Params, state: State) -> Tensor:
        """Logits [T, C] of the whole catalogue, without any effect of a context."""
        tasks = len(state["taste"])
        design, offset = body["design"][body["item"]], body["offset"][body["item"]]
        return self._logit(state, design.expand(tasks, -1, -1), offset.expand(tasks, -1))

    def _logit(self, state: State, design: Tensor, offset: Tensor) -> Tensor:
        probability = torch.zeros_like(offset)
        size = block_size(state["taste"], offset.shape[1])
        blocks = zip(*(torch.split(state[k], size, 1) for k in ("taste", "log_weight")), strict=True)
        for taste, log_weight in blocks:
            logit = taste @ design.mT + offset[:, None]
            probability += (logit.sigmoid() * log_weight.exp()[..., None]).sum(1)
        return torch.logit(probability, eps=1e-12).float()
