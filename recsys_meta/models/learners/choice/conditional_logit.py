"""The flagship's form for choices out of an entity's own catalogue: a ranker whose weights know the support's size.

Of a candidate's features x at a moment (`moments`), two experts each make a logit,

    u_e(x) = w_e(n) . x + net_e(x, moment),    w_e(n) = w_e + linear in log(1 + n) between learned knots,

one for items that the actor had met before, one for those new to it, and the candidate gets that of its kind; items
met before get a bonus that depends on the moment (how long and how varied the history is) and on n. The experts
are trained together, by a softmax over sampled candidates, and the expert for new items also among new items alone:
revisits are the greater and easier part of the data and would otherwise decide what popularity and distance are worth.
A small count is worth less than a great one, which is why the weights see n.

The entity's own weights may then take one step down the loss of its support, each row judged by what the others say,

    w_e <- w_e(n) + trust(n) a_e(n) * (mean of support x - E_p[x]),

with learned rates a(n). trust(n) is chosen on meta-validation entities and is 0 where the step does not pay.

Nearest relatives: conditional logit (McFadden 1974), CHAML (Chen 2021), Meta-SGD (Li 2017).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import Objective
from recsys_meta.core.types import FIRST, PAD, IntArray, Interactions, Params, State, Support, TaskBatch
from recsys_meta.episodes.event_index import EventIndex, draw_episodes, episode_batch
from recsys_meta.models.functional.choice_features import (
    VISITED,
    candidate_features,
    evenly_spaced_items,
    row_features,
    row_history,
    support_summary,
)
from recsys_meta.models.functional.losses import mean_over_rows
from recsys_meta.models.functional.masking import MASKED_LOGIT
from recsys_meta.models.learners.choice import experts
from recsys_meta.models.protocols import ParamGroup, PredictorConfig

SCALES = (0, 1, 4, 16, 64, 256)
"""Support sizes that the spread of the features is taken from."""
STEP_WEIGHTS = (0.0, 0.25, 0.5, 1.0)
"""How much of the learned step may be taken."""
STEP_SHARE = 0.25
"""Share of meta-batches that take the step."""
CALIBRATION_ROWS = 512
"""Query rows of an entity that the choice of trust looks at."""


class ChoiceConfig(PredictorConfig):
    """`aware` off, `split` off and `adapts` off give the same model blind to the support's size, with one expert for
    all items, and without a step: a pooled network."""

    objective: Objective = "choice"
    aware: bool = Field(default=True, description="weights depend on the support's size")
    split: bool = Field(default=True, description="items met before and new ones have an expert each")
    adapts: bool = Field(default=True, description="the entity's weights take a step where it pays")
    hidden: int = Field(default=16, ge=0, description="width of each expert's net; 0 leaves it linear")
    bonus: int = Field(default=8, ge=0, description="width of the net for the bonus of items met before")
    negatives: int = Field(default=100, ge=1, description="sampled candidates of a row")
    new_weight: float = Field(default=1.0, ge=0, description="weight of the choice among new items alone")
    rate: float = Field(default=0.05, gt=0, description="fresh rates of the step")
    decay: float = Field(default=1e-2, ge=0, description="weight decay")

    @property
    def steps(self) -> int:
        """Inner steps."""
        return int(self.adapts)


@dataclass(frozen=True)
class ConditionalLogit:
    """The learner: see the module."""

    config: ChoiceConfig = field(default_factory=ChoiceConfig)
    name: ClassVar[str] = "choice"
    Config: ClassVar[type[ChoiceConfig]] = ChoiceConfig
    objectives: ClassVar[frozenset[Objective]] = frozenset({"choice"})

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        """Fresh parameters; centre and spread of the features come from the given entities. Raises ConfigError unless
        the data set is one of choices."""
        if data.schema.objective != "choice":
            raise ConfigError(
                f"'{self.name}' chooses, but '{data.schema.name}' has objective '{data.schema.objective}'"
            )
        c = self.config
        return experts.init_experts(c.aware, c.split, c.hidden, c.bonus, c.rate, generator) | _feature_scales(
            data, entities, generator
        )

    def training_state(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> None:
        """Nothing is needed beside the parameters."""

    def is_frozen(self, key: str) -> bool:
        return key == "trust" or key.endswith((".centre", ".spread"))

    def param_group(self, key: str) -> ParamGroup:
        return ParamGroup(decay=0.0 if key == "log_step" else self.config.decay)

    def body(self, params: Params) -> Params:
        return params

    def adapt(self, body: Params, support: Support) -> State:
        """What `moments.summary` keeps, and the entity's weights [T, E, F] and bonus [T]."""
        state = support_summary(support)
        knots = experts.interpolate_by_size(state["size"], len(body["weight_by_size"]))
        state["weight"] = body["weight"] + torch.einsum("tk,kef->tef", knots, body["weight_by_size"])
        state["bonus"] = knots @ body["bonus_by_size"]
        trust = experts.interpolate_by_size(state["size"], len(body["trust"])) @ body["trust"]
        if self.config.adapts and support.rows.item.shape[1] and bool((trust > 0).any()):
            rate = torch.einsum("tk,kef->tef", knots, body["log_step"]).exp()
            x, row, mask, counts = self._support_inputs(body, state, support)
            step = experts.expert_step(body, state, x, row, mask, counts)
            state["weight"] = state["weight"] + trust[:, None, None] * rate * step
        return state

    def _support_inputs(self, body: Params, state: State, support: Support) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Candidates of the support's own rows, scaled features [T, S, K, F] with the row's item first, moments
        [T, S, G], which candidates are there [T, S, K] and which rows count [T, S].

        The rows are the support's even where the state is not: before adapting it has none. Only where it has counted
        these very rows is each left out of what it says of it."""
        rows = support.rows
        rows = replace(rows, item=torch.where(rows.mask & (rows.item >= FIRST), rows.item, PAD))
        candidates = _candidate_set(rows, _fixed_candidates(state, self.config.negatives))
        state_has_rows = torch.equal(state["item"], rows.item)
        x = experts.scale_features(body, candidate_features(state, rows, candidates, leave_one_out=state_has_rows))
        counts = (rows.item >= FIRST) & (row_history(rows) >= FIRST).any(2)
        return x, self._row_inputs(body, state, rows), _candidate_mask(state, candidates), counts

    def _row_inputs(self, body: Params, state: State, rows: Interactions) -> Tensor:
        row = experts.scale_features(body, row_features(state, rows), "moment")
        return row if self.config.aware else row * experts.SIZE_BLIND_MASK.to(row.device)

    def choose(self, body: Params, state: State, rows: Interactions, candidates: Tensor) -> Tensor:
        x = experts.scale_features(body, candidate_features(state, rows, candidates))
        return experts.expert_logits(body, state, x, self._row_inputs(body, state, rows))

    def rank(self, body: Params, state: State) -> Tensor:
        tasks, items = state["count"].shape
        padding = torch.zeros(tasks, 1, dtype=torch.int64, device=state["count"].device)
        rows = Interactions(padding, padding.float(), padding == 0)
        every = torch.arange(items, device=padding.device).expand(tasks, 1, items)
        return self.choose(body, state, rows, every)[:, 0]

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        return self.choose(body, state, rows, rows.item[:, :, None])[..., 0]

    def support_loss(self, body: Params, state: State, support: Support) -> Tensor:
        """What the step goes down: each row with a history judged by what the others say, or, under the state of
        another support, by all that says."""
        if not support.rows.item.shape[1]:
            return torch.zeros(support.size)
        x, row, mask, counts = self._support_inputs(body, state, support)
        logits = experts.expert_logits(body, state, x, row).masked_fill(~mask, MASKED_LOGIT)
        return mean_over_rows(-torch.log_softmax(logits, 2)[..., 0], counts)

    def meta_loss(
        self, params: Params, batch: TaskBatch, aids: None, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        """Loss of the query's choices. In some meta-batches the tasks take the step: the weights must be good
        without it too."""
        steps = torch.rand(1, generator=generator, device=batch.query.item.device) < STEP_SHARE
        state = self.adapt(_with_step_weight(params, float(steps)), batch.support)
        others = _sample_candidates(state, batch.query.item.shape[1], self.config.negatives, generator)
        every, new = self._losses(params, state, batch.query, others)
        total = (every + self.config.new_weight * new).mean()
        return total, {"all": float(every.detach().mean()), "new": float(new.detach().mean())}

    def _losses(self, body: Params, state: State, rows: Interactions, others: Tensor) -> tuple[Tensor, Tensor]:
        """Loss [T] of the rows' choices among candidates, and of those of new items among new ones."""
        candidates = _candidate_set(rows, others)
        x = candidate_features(state, rows, candidates)
        logits = experts.expert_logits(
            body, state, experts.scale_features(body, x), self._row_inputs(body, state, rows)
        )
        logits = logits.masked_fill(~_candidate_mask(state, candidates), MASKED_LOGIT)
        revisit = x[..., VISITED] > 0
        counts = rows.mask & (rows.item >= FIRST)
        every = mean_over_rows(-torch.log_softmax(logits, 2)[..., 0], counts)
        new = -torch.log_softmax(logits.masked_fill(revisit, MASKED_LOGIT), 2)[..., 0]
        return every, (torch.where(revisit[..., 0], 0.0, new) * counts).sum(1) / counts.sum(1).clamp(min=1)

    @torch.no_grad()
    def calibrate(self, params: Params, episodes: Sequence[TaskBatch]) -> Params:
        """Choose for each support size how much of the step is taken: none, unless the mean gain over meta-validation
        entities is above its standard error."""
        if not self.config.adapts:
            return params
        sizes, weights = [], []
        for batch in episodes:
            if batch.support.rows.item.shape[1]:
                sizes.append(float(batch.support.rows.counts.log1p().mean()))
                weights.append(self._best_step_weight(params, batch))
        if not sizes:
            return params
        distance = torch.log1p(torch.tensor(experts.KNOTS, dtype=torch.float32))[:, None] - torch.tensor(sizes)
        nearest = distance.abs().argmin(1)
        return params | {"trust": torch.tensor(weights)[nearest]}

    def _best_step_weight(self, params: Params, batch: TaskBatch) -> float:
        rows = batch.query.columns(0, CALIBRATION_ROWS)
        losses = []
        for trust in STEP_WEIGHTS:
            state = self.adapt(_with_step_weight(params, trust), batch.support)
            every, new = self._losses(params, state, rows, _fixed_candidates(state, self.config.negatives))
            losses.append(every + new)
        gain = losses[0] - torch.stack(losses)
        if gain.shape[1] < 2:
            return 0.0  # one entity says nothing of how sure the gain is
        mean, error = gain.mean(1), gain.std(1) / gain.shape[1] ** 0.5
        best = int(mean.argmax())
        return STEP_WEIGHTS[best] if float(mean[best]) > float(error[best]) else 0.0


def _with_step_weight(params: Params, trust: float) -> Params:
    """The parameters with so much of the step taken at every size of the support."""
    return {**params, "trust": torch.full_like(params["trust"], trust)}


def _feature_scales(data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
    """Centre and spread of features and moments at a few support sizes."""
    index = EventIndex.of(data)
    usable = np.asarray(entities)[index.counts.numpy()[np.asarray(entities)] >= 2]
    if not len(usable):
        raise ConfigError("no training entity has the two interactions that an episode needs")
    x, m = [], []
    for size in SCALES:
        sample = torch.as_tensor(usable)[torch.randperm(len(usable), generator=generator)[:8]]
        support, query = draw_episodes(index, sample, torch.full_like(sample, size), max_query=64)
        batch = episode_batch(data, sample.numpy(), support, query)
        state = support_summary(batch.support)
        candidates = _candidate_set(batch.query, _sample_candidates(state, batch.query.item.shape[1], 16, generator))
        real = _candidate_mask(state, candidates) & batch.query.mask[:, :, None]
        x.append(candidate_features(state, batch.query, candidates)[real])
        m.append(row_features(state, batch.query)[batch.query.mask])
    features = {"feature": torch.cat(x), "moment": torch.cat(m)}
    return {f"{k}.centre": v.mean(0) for k, v in features.items()} | {
        f"{k}.spread": v.std(0, correction=0).clamp(min=0.05) for k, v in features.items()
    }


def _sample_candidates(state: State, rows: int, most: int, generator: torch.Generator) -> Tensor:
    """Items [T, R, N] for each of so many rows, N at most `most`: a catalogue of no more than N whole, each item once,
    of a larger one N drawn uniformly."""
    exists = state["listed"]
    items = exists.sum(1)[:, None, None]
    width = max(1, min(most, int(items.max()) if items.numel() else 1))
    uniform = torch.rand(len(exists), rows, width, generator=generator, device=exists.device)
    position = torch.where(items <= width, torch.arange(width, device=exists.device), (uniform * items).long())
    return torch.where(position < items, FIRST + position, PAD)


def _fixed_candidates(state: State, most: int) -> Tensor:
    """Items [T, 1, N] at equal spaces in each catalogue."""
    items, _ = evenly_spaced_items(state["listed"], most)
    return items[:, None, :]


def _candidate_set(rows: Interactions, others: Tensor) -> Tensor:
    """Candidates [T, R, 1 + H + N]: the row's item, its history, others; what occurs before is 0."""
    history = row_history(rows)
    item = rows.item[:, :, None]
    others = others.expand(*rows.item.shape, -1)
    again = (history[..., :, None] == history[..., None, :]).tril(-1).any(3) | (history == item)
    before = torch.cat([item, history], 2)
    duplicate = (others[..., :, None] == before[..., None, :]).any(3)
    return torch.cat([item, history.masked_fill(again, 0), others.masked_fill(duplicate, 0)], 2)


def _candidate_mask(state: State, candidates: Tensor) -> Tensor:
    """Which candidates are items of the catalogue; the first of each row always counts, so that no row is empty."""
    exists = state["listed"].gather(1, candidates.flatten(1)).reshape(candidates.shape)
    return torch.cat([torch.ones_like(exists[..., :1]), exists[..., 1:]], 2)
