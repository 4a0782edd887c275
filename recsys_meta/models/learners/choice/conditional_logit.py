"""The flagship for choices from an entity's own catalogue: a conditional logit whose weights depend on the support
size.

Two experts each make a logit of a candidate's features x at a row (`choice_features`),

    u_e(x) = w_e(n) . x + net_e(x, row),    w_e(n) = w_e + linear in log(1 + n) between learned knots,

one for items that the actor visited before, one for those new to it, and the candidate gets that of its kind; items
visited before get a bonus that depends on the row (length and variety of the history) and on n. The experts are trained
together, by a softmax over sampled candidates, and the expert for new items also among new items alone: revisits are
the greater and easier part of the data and would otherwise determine the weights of popularity and distance. A small
count is worth less than a large one, which is why the weights depend on n.

The entity's own weights may then take one step down the loss of its support, where each row sees the statistics of the
others,

    w_e <- w_e(n) + trust(n) a_e(n) * (mean of support x - E_p[x]),

with learned step sizes a(n). trust(n) is chosen on meta-validation entities and is 0 where the step does not pay.

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
from recsys_meta.episodes.collate import episode_batch
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.models.functional.catalogue_features import catalogue_features, pays_whole
from recsys_meta.models.functional.choice_features import (
    VISITED,
    candidate_features,
    evenly_spaced_items,
    row_features,
    row_history,
    support_summary,
)
from recsys_meta.models.functional.choice_statistics import state_of_tasks
from recsys_meta.models.functional.host_reads import may_hold, most_needed
from recsys_meta.models.functional.losses import mean_over_rows, mean_over_tasks
from recsys_meta.models.functional.masking import MASKED_LOGIT
from recsys_meta.models.functional.size_groups import size_groups
from recsys_meta.models.learners.choice import experts
from recsys_meta.models.protocols import ParamGroup, PredictorConfig

SCALES = (0, 1, 4, 16, 64, 256)
"""Support sizes, in rows, at which centre and spread of the features are measured."""
STEP_WEIGHTS = (0.0, 0.25, 0.5, 1.0)
"""Candidates for trust(n), the share of the learned step."""
STEP_SHARE = 0.25
"""Share of meta-batches that take the step."""
CALIBRATION_ROWS = 512
"""Query rows of an entity on which trust(n) is chosen."""


class ChoiceConfig(PredictorConfig):
    """Configuration of `ConditionalLogit`. Without `aware`, `split` and `adapts` it is a pooled network: blind to the
    support size, with one expert for all items, and without a step."""

    objective: Objective = Field(default="choice", description="objective of the data set")
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
        """Number of inner steps."""
        return int(self.adapts)


@dataclass(frozen=True)
class ConditionalLogit:
    """The learner of choices that this module describes."""

    config: ChoiceConfig = field(default_factory=ChoiceConfig)
    name: ClassVar[str] = "choice"
    Config: ClassVar[type[ChoiceConfig]] = ChoiceConfig
    objectives: ClassVar[frozenset[Objective]] = frozenset({"choice"})

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        """Fresh parameters; centre and spread of the features come from the given entities. Raises ConfigError unless
        the data set is one of choices."""
        data.schema.require_objective("choice", self.name)
        c = self.config
        return experts.init_experts(c.aware, c.split, c.hidden, c.bonus, c.rate, generator) | _feature_scales(
            data, entities, generator
        )

    def training_state(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> None:
        """None: training needs nothing beside the parameters."""

    def is_frozen(self, key: str) -> bool:
        return key == "trust" or key.endswith((".centre", ".spread"))

    def param_group(self, key: str) -> ParamGroup:
        return ParamGroup(decay=0.0 if key == "log_step" else self.config.decay)

    def body(self, params: Params) -> Params:
        return params

    def adapt(self, body: Params, support: Support) -> State:
        """The statistics of `support_summary`, and the entity's weight [T, E, F] and bonus [T]."""
        state = support_summary(support)
        knots = experts.interpolate_by_size(state["size"], len(body["weight_by_size"]))
        state["weight"] = body["weight"] + torch.einsum("tk,kef->tef", knots, body["weight_by_size"])
        state["bonus"] = knots @ body["bonus_by_size"]
        trust = experts.interpolate_by_size(state["size"], len(body["trust"])) @ body["trust"]
        if self.config.adapts and support.rows.item.shape[1] and may_hold(trust > 0):
            rate = torch.einsum("tk,kef->tef", knots, body["log_step"]).exp()
            x, row, mask, counts = self._support_inputs(body, state, support, own_rows=True)
            step = experts.expert_step(body, state, x, row, mask, counts)
            state["weight"] = state["weight"] + trust[:, None, None] * rate * step
        return state

    def _support_inputs(
        self, body: Params, state: State, support: Support, *, own_rows: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scaled features [T, S, K, F] of the candidates of the support's rows, the row's item first, scaled features
        [T, S, G] of the rows alone, the mask of candidates [T, S, K] and that of the rows which count [T, S].

        own_rows: the state was computed from these very rows, so that each row is left out of the statistics that it
        sees. (It may be that of another support: before adapting it has no rows.)"""
        rows = _known_rows(support.rows)
        candidates = _candidate_set(rows, _fixed_candidates(state, self.config.negatives))
        x = experts.scale_features(body, candidate_features(state, rows, candidates, leave_one_out=own_rows))
        counts = (rows.item >= FIRST) & (row_history(rows) >= FIRST).any(2)
        return x, self._row_inputs(body, state, rows), _candidate_mask(state, candidates), counts

    def _row_inputs(self, body: Params, state: State, rows: Interactions) -> Tensor:
        row = experts.scale_features(body, row_features(state, rows), "moment")
        return row if self.config.aware else row * experts.SIZE_BLIND_MASK.to(row.device)

    def choose(self, body: Params, state: State, rows: Interactions, candidates: Tensor) -> Tensor:
        if pays_whole(state, candidates.shape[2]):
            logits, visit_logits, history = self._catalogue_logits(body, state, rows)
            place = torch.where(
                history >= FIRST, visit_logits, logits[:, :, PAD, None]
            )  # all others go to padding, unchanged
            return logits.scatter(2, history, place).gather(2, candidates)
        x = experts.scale_features(body, candidate_features(state, rows, candidates))
        return experts.expert_logits(body, state, x, self._row_inputs(body, state, rows))

    def _catalogue_logits(self, body: Params, state: State, rows: Interactions) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [T, R, C] of every item as a new one, logits [T, R, H] of the items of the history, and their ids."""
        features = catalogue_features(state, rows)
        logits, visit_logits = experts.catalogue_logits(body, state, features, self._row_inputs(body, state, rows))
        return logits, visit_logits, features.history

    def rank(self, body: Params, state: State) -> Tensor:
        tasks, items = state["count"].shape
        padding = torch.zeros(tasks, 1, dtype=torch.int64, device=state["count"].device)
        rows = Interactions(padding, padding.float(), padding == 0)
        every = torch.arange(items, device=padding.device).expand(tasks, 1, items)
        return self.choose(body, state, rows, every)[:, 0]

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        return self.choose(body, state, rows, rows.item[:, :, None])[..., 0]

    def support_loss(self, body: Params, state: State, support: Support) -> Tensor:
        """Loss [T] that the step descends: choices of the rows with a history, each given the statistics of the other
        rows, or, under the state of another support, all of its statistics."""
        if not support.rows.item.shape[1]:
            return torch.zeros(support.size)
        own_rows = torch.equal(state["item"], _known_rows(support.rows).item)
        x, row, mask, counts = self._support_inputs(body, state, support, own_rows=own_rows)
        logits = experts.expert_logits(body, state, x, row).masked_fill(~mask, MASKED_LOGIT)
        return mean_over_rows(-torch.log_softmax(logits, 2)[..., 0], counts)

    def meta_loss(
        self, params: Params, batch: TaskBatch, training_state: None, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Loss of the query's choices. The tasks take the step in a share of the meta-batches only, as the weights must
        be good without it too."""
        steps = torch.rand(1, generator=generator, device=batch.query.item.device) < STEP_SHARE
        state = self.adapt(_with_step_weight(params, steps), batch.support)
        listed = _listed_items(batch.whole.support)
        others = _sample_candidates(listed, batch.query.item.shape[1], self.config.negatives, generator)
        every, new = self._losses(params, state, batch.query, batch.own(others))
        weight = torch.ones(len(listed), device=listed.device)
        total = mean_over_tasks(every + self.config.new_weight * new, weight, batch.shard)
        return total, {"all": every.detach().mean(), "new": new.detach().mean()}

    def _losses(self, body: Params, state: State, rows: Interactions, others: Tensor) -> tuple[Tensor, Tensor]:
        """Losses [T] of the rows' choices among all candidates, and of choices of new items among new candidates:
        those of the row, its history and others [T, R or 1, N]."""
        others = others.expand(*rows.item.shape, -1)
        groups, parts = size_groups(state["listed"].sum(1)), []
        for tasks in groups:
            part = state_of_tasks(state, tasks)
            own_rows, own_others = rows.of(tasks), others[tasks]
            losses = self._whole_losses if pays_whole(part, 1 + others.shape[2]) else self._list_losses
            parts.append(losses(body, part, own_rows, own_others))
        order = torch.cat(groups).argsort()
        every, new = (torch.cat(values)[order] for values in zip(*parts, strict=True))
        return every, new

    def _whole_losses(self, body: Params, state: State, rows: Interactions, others: Tensor) -> tuple[Tensor, Tensor]:
        """The losses from logits of the whole catalogue: an item that is n times among the others counts n times."""
        logits, visit_logits, history = self._catalogue_logits(body, state, rows)
        item, is_visited = rows.item[:, :, None], history >= FIRST
        times = torch.zeros_like(logits).scatter_add(2, others, torch.ones_like(others, dtype=logits.dtype))
        times = times.scatter(2, item, 1.0).scatter(2, history, 0.0) * state["listed"][:, None, :]
        new_sum = torch.logsumexp(torch.where(times > 0, logits + times.log(), MASKED_LOGIT), 2)
        old_sum = torch.logsumexp(visit_logits.masked_fill(~is_visited, MASKED_LOGIT), 2)
        match = (history == item) & is_visited
        again = match.any(2)
        target = torch.where(again, (visit_logits * match).sum(2), logits.gather(2, item)[..., 0])
        counts = rows.mask & (rows.item >= FIRST)
        every = mean_over_rows(torch.logaddexp(new_sum, old_sum) - target, counts)
        return every, mean_over_rows(torch.where(again, 0.0, new_sum - target), counts)

    def _list_losses(self, body: Params, state: State, rows: Interactions, others: Tensor) -> tuple[Tensor, Tensor]:
        """The losses from features of each row's own list of candidates."""
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
        return every, mean_over_rows(torch.where(revisit[..., 0], 0.0, new), counts)

    @torch.no_grad()
    def calibrate(self, params: Params, episodes: Sequence[TaskBatch]) -> Params:
        """Choose trust(n) for each support size: 0, unless the mean gain over meta-validation entities is above its
        standard error."""
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
            return 0.0  # one entity gives no standard error
        mean, error = gain.mean(1), gain.std(1) / gain.shape[1] ** 0.5
        best = int(mean.argmax())
        return STEP_WEIGHTS[best] if float(mean[best]) > float(error[best]) else 0.0


def _with_step_weight(params: Params, weight: float | Tensor) -> Params:
    """Parameters with this share of the step at every support size."""
    return {**params, "trust": torch.ones_like(params["trust"]) * weight}


def _known_rows(rows: Interactions) -> Interactions:
    """Rows with PAD in place of items that are padding or unknown."""
    return replace(rows, item=torch.where(rows.mask & (rows.item >= FIRST), rows.item, PAD))


def _feature_scales(data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
    """Centre and spread of the features of candidates and of rows, over episodes of a few support sizes. Raises
    ConfigError if no entity has the two interactions that an episode needs."""
    index = EventIndex.of(data)
    usable = np.asarray(entities)[index.counts.numpy()[np.asarray(entities)] >= 2]
    if not len(usable):
        raise ConfigError("no training entity has the two interactions that an episode needs")
    x, m = [], []
    for size in SCALES:
        sample = torch.as_tensor(usable)[torch.randperm(len(usable), generator=generator)[:8]]
        support, query = index.draw(sample, torch.full_like(sample, size), max_query=64)
        batch = episode_batch(data, sample.numpy(), support, query)
        state = support_summary(batch.support)
        candidates = _candidate_set(
            batch.query, _sample_candidates(state["listed"], batch.query.item.shape[1], 16, generator)
        )
        real = _candidate_mask(state, candidates) & batch.query.mask[:, :, None]
        x.append(candidate_features(state, batch.query, candidates)[real])
        m.append(row_features(state, batch.query)[batch.query.mask])
    features = {"feature": torch.cat(x), "moment": torch.cat(m)}
    return {f"{k}.centre": v.mean(0) for k, v in features.items()} | {
        f"{k}.spread": v.std(0, correction=0).clamp(min=0.05) for k, v in features.items()
    }


def _listed_items(support: Support) -> Tensor:
    """Mask [T, C] of the items of each catalogue."""
    assert support.catalogue is not None, "support_summary raises without a catalogue"
    return support.catalogue.mask


def _sample_candidates(exists: Tensor, rows: int, most: int, generator: torch.Generator) -> Tensor:
    """Sample items [T, R, N] of catalogues [T, C] for each of R = `rows` rows, N at most `most`: all items of a
    catalogue of no more than N, once each; N drawn uniformly from a larger one."""
    items = exists.sum(1)[:, None, None]
    width = max(1, most_needed(items, min(most, exists.shape[1] - FIRST)))
    uniform = torch.rand(len(exists), rows, width, generator=generator, device=exists.device)
    position = torch.where(items <= width, torch.arange(width, device=exists.device), (uniform * items).long())
    return torch.where(position < items, FIRST + position, PAD)


def _fixed_candidates(state: State, most: int) -> Tensor:
    """Items [T, 1, N] at equal intervals of each catalogue, the same for all rows."""
    items, _ = evenly_spaced_items(state["listed"], most)
    return items[:, None, :]


def _candidate_set(rows: Interactions, others: Tensor) -> Tensor:
    """Candidates [T, R, 1 + H + N]: the row's item, its history, others; repetitions are 0."""
    history = row_history(rows)
    item = rows.item[:, :, None]
    others = others.expand(*rows.item.shape, -1)
    again = (history[..., :, None] == history[..., None, :]).tril(-1).any(3) | (history == item)
    before = torch.cat([item, history], 2)
    duplicate = (others[..., :, None] == before[..., None, :]).any(3)
    return torch.cat([item, history.masked_fill(again, 0), others.masked_fill(duplicate, 0)], 2)


def _candidate_mask(state: State, candidates: Tensor) -> Tensor:
    """Mask of the candidates that are items of the catalogue; the first of each row always is, so that no row is
    empty."""
    exists = state["listed"].gather(1, candidates.flatten(1)).reshape(candidates.shape)
    return torch.cat([torch.ones_like(exists[..., :1]), exists[..., 1:]], 2)
