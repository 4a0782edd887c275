"""MAML on newcomers (Finn, Abbeel & Levine 2017): q = p - a grad L(S; p), meta-loss L(Q; q), for a batch of tasks.

What moves in the inner loop is a choice: the entity's own vector, the decision layers (with features concatenated
and no item ids that is MeLU, Lee et al. 2019), or all of it, with the vectors of the support's items. Fast weights
carry a leading T, so the gradient of the summed support losses is each task's own gradient. The outer gradient
goes through the step (order 2) or takes the inner gradient as a constant (order 1).

The step is blind to the size of the support: that is the method, and its weakness at one shot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from recsys_meta import objectives
from recsys_meta.dataset import Dataset
from recsys_meta.errors import ConfigError
from recsys_meta.learners import scorer
from recsys_meta.learners.level import item_level
from recsys_meta.learners.scorer import ScorerConfig
from recsys_meta.predictor import Group
from recsys_meta.types import FIRST, IntArray, Params, Rows, State, Support, TaskBatch

NEVER = -1e9
"""Logit of what can never be drawn; finite, so that masked rows stay numbers."""


class MamlConfig(ScorerConfig):
    """MAML's configuration; the model's fields are those of `ScorerConfig`."""

    adapts: Literal["entity", "head", "all"] = "entity"
    order: Literal[1, 2] = 2
    steps: int = Field(default=1, ge=0)
    rate: float = Field(default=1.0, gt=0, description="inner rate at the start; learned, one for each group")
    negatives: int = Field(default=0, ge=0, description="sampled softmax with so many; 0: the whole catalogue")
    dropout: float = Field(default=0.3, ge=0, lt=1, description="on item vectors, while training")
    size_weight: float = Field(default=0.5, ge=0, le=1, description="a task weighs (query rows)^this")
    decay: float = Field(default=1e-2, ge=0, description="weight decay of all but inner rates and start levels")
    bias_speed: float = Field(default=0.1, gt=0, description="outer rate of item biases over the others'")
    rate_speed: float = Field(default=3.0, gt=0, description="outer rate of inner rates over the others'")

    @model_validator(mode="after")
    def _method(self) -> Self:
        if self.adapts == "head" and not self.hidden:
            raise ValueError("adapts 'head' needs hidden layers: a dot product has none")
        if self.objective == "ranking" and self.hidden and not self.negatives:
            raise ValueError("a ranking with hidden layers needs negatives > 0 (a sampled softmax)")
        return self

    @property
    def groups(self) -> tuple[str, ...]:
        """What adapts, each with an inner rate of its own."""
        head = ("head",) if self.hidden else ()
        return {"entity": ("entity",), "head": head, "all": ("entity", *head, "rows")}[self.adapts]


@dataclass(frozen=True)
class Maml:
    """The learner: see the module."""

    config: MamlConfig = field(default_factory=MamlConfig)
    name: ClassVar[str] = "maml"
    Config: ClassVar[type[MamlConfig]] = MamlConfig

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        """Fresh parameters; raises ConfigError when the objective is not the data set's."""
        config = self.config
        if config.objective != data.schema.objective:
            raise ConfigError(
                f"the learner is configured for objective '{config.objective}', "
                f"but '{data.schema.name}' has '{data.schema.objective}'"
            )
        counts, level = item_level(data, entities)
        params = scorer.init(config, data, entities, level, generator)
        for group in config.groups:
            params[f"rate.{group}"] = torch.tensor(float(np.log(config.rate)))
        if config.objective == "ranking" and config.negatives:
            weight = (counts + 1) ** 0.75
            weight[:FIRST] = 0
            params["log_q"] = torch.log(config.negatives * weight / weight.sum()).clamp(min=NEVER)
            params["negatives"] = self._negatives(params, generator)
        return params

    def aids(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> None:
        """Nothing is needed beside the parameters."""

    def frozen(self, key: str) -> bool:
        parts = key.split(".")
        moments = len(parts) == 3 and parts[2] == "scale"
        return moments or parts[0] in ("catalogue", "log_q", "negatives")

    def group(self, key: str) -> Group:
        if key.startswith("rate."):
            return Group(rate=self.config.rate_speed)
        if key == "bias":
            return Group(rate=self.config.bias_speed)
        level = key == "start" or key.endswith(".bias")  # these hold the mean label: nothing to shrink to 0
        return Group(decay=0.0 if level else self.config.decay)

    def body(self, params: Params) -> Params:
        return self._body(params, scorer.item_vectors(self.config, params))

    def _body(self, params: Params, vectors: Tensor) -> Params:
        return scorer.body(self.config, params, vectors, fixed_head=self.config.adapts == "entity")

    def adapt(self, body: Params, support: Support) -> State:
        """z [T, Z]; with a head that adapts its layers [T, ...]; with rows their items [T, S] and changes [T, S, V].

        Works with and without an outer graph: one is kept only if the body asks for gradients.
        """
        state, steps = self._start(body, support), self.config.steps
        rows = self._known(support.rows)
        outer = torch.is_grad_enabled() and any(v.requires_grad for v in body.values())
        for _ in range(steps if rows.item.shape[1] else 0):
            state = state | {
                key: state[key] - body[f"rate.{_group(key)}"].exp() * gradient
                for key, gradient in self._gradient(body, state, rows, outer).items()
            }
        return {key: value.contiguous() for key, value in state.items()}

    def _start(self, body: Params, support: Support) -> State:
        """The state of no step: what is shared, with a leading T."""
        tasks, groups = support.size, self.config.groups
        state = {"z": scorer.entity_vectors(self.config, body, support)}
        if "head" in groups:
            state |= {k: v.expand(tasks, *v.shape) for k, v in scorer.head_of(body).items()}
        if "rows" in groups:
            item = support.rows.item * self._known(support.rows).mask
            # An item met twice has one vector: its first slot owns the change, in the others nothing moves.
            earlier = (item[:, :, None] == item[:, None, :]).tril(-1).any(2)
            state["rows.item"] = item.masked_fill(earlier, 0)
            state["rows.change"] = body["vectors"].new_zeros(*item.shape, body["vectors"].shape[1])
        return state

    def _gradient(self, body: Params, state: State, rows: Rows, outer: bool) -> dict[str, Tensor]:
        """Gradient of each task's support loss in what adapts."""
        second = outer and self.config.order == 2
        if not second:
            body = {k: v.detach() for k, v in body.items()}
            state = {k: v.detach() for k, v in state.items()}
        if self.config.adapts == "entity" and not self.config.hidden:
            return {"z": self._closed_form(body, state["z"], rows)}
        with torch.enable_grad():
            keys = [k for k in state if _group(k) in self.config.groups]
            fast = {k: v if v.requires_grad else v.requires_grad_() for k, v in state.items() if k in keys}
            loss = self._loss(body, state | fast, rows).sum()
            gradients = torch.autograd.grad(loss, list(fast.values()), create_graph=second)
        return dict(zip(fast, gradients, strict=True))

    def _closed_form(self, body: Params, z: Tensor, rows: Rows) -> Tensor:
        """The gradient of the support loss of a dot product in z, [T, Z]: no autograd at serving time."""
        config, vectors = self.config, body["vectors"]
        own = vectors[rows.item]
        weight = rows.mask / rows.counts.clamp(min=1)[:, None]  # [T, S], the mean over rows
        if config.objective == "ranking" and not config.negatives:
            some = rows.mask.any(1, keepdim=True)
            expected = torch.softmax(self._full(body, {"z": z}), 1) @ vectors
            return expected * some - torch.einsum("ts,tsv->tv", weight.to(own.dtype), own)
        score = self._score(body, {"z": z}, rows.item)
        if config.objective == "ranking":
            other = self._shared(body, {"z": z}, body["negatives"]) - body["log_q"][body["negatives"]]
            miss = torch.sigmoid(other.logsumexp(1)[:, None] - score + body["log_q"][rows.item]) * weight
            pushed = torch.softmax(other, 1) @ vectors[body["negatives"]]
            return miss.sum(1, keepdim=True) * pushed - torch.einsum("ts,tsv->tv", miss, own)
        error = 2 * (score - rows.label) if config.objective == "rating" else torch.sigmoid(score) - rows.label
        return torch.einsum("ts,tsv->tv", error * weight, own)

    def score(self, body: Params, state: State, rows: Rows) -> Tensor:
        return self._score(body, state, rows.item)

    def _score(self, body: Params, state: State, item: Tensor) -> Tensor:
        """Scores [T, R] of items [T, R]."""
        e = body["vectors"][item]
        if "rows.item" in state:
            same = item[:, :, None] == state["rows.item"][:, None, :]
            e = e + same.to(e.dtype) @ state["rows.change"]
        scores = scorer.pairs(self.config, body, state["z"], scorer.head_of(state), e)
        return scores + body["bias"][item] if self.config.item_bias else scores

    def _shared(self, body: Params, state: State, item: Tensor) -> Tensor:
        """Scores [T, N] of the same items [N] for all tasks; changes of single tasks' rows do not reach them."""
        e = body["vectors"][item]
        scores = scorer.pairs(self.config, body, state["z"], scorer.head_of(state), e)
        return scores + body["bias"][item] if self.config.item_bias else scores

    def rank(self, body: Params, state: State) -> Tensor:
        scores = scorer.catalogue(self.config, body, state["z"], scorer.head_of(state))
        if "rows.item" not in state:
            return scores
        item = state["rows.item"]
        return scores.scatter(1, item, self._score(body, state, item))

    def _full(self, body: Params, state: State) -> Tensor:
        """Logits [T, C] of a softmax over the catalogue: the reserved ids are never drawn."""
        reserved = torch.arange(body["vectors"].shape[0], device=body["vectors"].device) < FIRST
        return self.rank(body, state).masked_fill(reserved, NEVER)

    def support_loss(self, body: Params, state: State, support: Support) -> Tensor:
        return self._loss(body, state, self._known(support.rows))

    def _known(self, rows: Rows) -> Rows:
        """In a ranking an unknown item says nothing; a rating of one still tells how the entity rates."""
        if self.config.objective != "ranking":
            return rows
        return replace(rows, mask=rows.mask & (rows.item >= FIRST))

    def _loss(self, body: Params, state: State, rows: Rows, seen: Rows | None = None) -> Tensor:
        """Loss of each task, [T]. What was `seen` in the support is not recommended, so a softmax leaves it out."""
        if self.config.objective == "ranking" and not self.config.negatives:
            logits = self._full(body, state)
            if seen is not None:
                out = torch.zeros_like(logits, dtype=torch.bool).scatter(1, seen.item * seen.mask, True)
                logits = logits.masked_fill(out, NEVER)
                rows = replace(rows, mask=rows.mask & ~out.gather(1, rows.item))
            return objectives.softmax(logits, rows)
        scores = self._score(body, state, rows.item)
        if self.config.objective == "rating":
            return objectives.squared(scores, rows)
        if self.config.objective == "click":
            return objectives.logistic(scores, rows)
        negatives, log_q = body["negatives"], body["log_q"]
        other = self._shared(body, state, negatives)
        own_log_q = log_q[rows.item].masked_fill(~rows.mask, 0.0)
        return objectives.sampled_softmax(scores, other, rows, log_q[negatives], own_log_q)

    def meta_loss(
        self, params: Params, batch: TaskBatch, aids: None, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        """Mean query loss after adapting; figures: how far adapting moved, and the inner rates."""
        vectors = scorer.item_vectors(self.config, params)
        if self.config.dropout:
            kept = torch.rand(vectors.shape, generator=generator, device=vectors.device) >= self.config.dropout
            vectors = vectors * kept / (1 - self.config.dropout)
        body = self._body(params, vectors)
        if "negatives" in body:
            body["negatives"] = self._negatives(body, generator)
        state = self.adapt(body, batch.support)
        query = self._known(batch.query)
        losses = self._loss(body, state, query, batch.support.rows)
        weight = query.counts.to(losses.dtype) ** self.config.size_weight * query.mask.any(1)
        loss = (losses * weight).sum() / weight.sum().clamp(min=1)
        return loss, self._figures(body, state, batch.support)

    @torch.no_grad()
    def _figures(self, body: Params, state: State, support: Support) -> dict[str, float]:
        start = self._start(body, support)
        moved = [(state[k] - start[k]).flatten(1) for k in start if _group(k) in self.config.groups]
        rates = {f"inner_rate.{g}": float(body[f"rate.{g}"].exp()) for g in self.config.groups}
        return {"change": float(torch.cat(moved, 1).norm(dim=1).mean()), **rates}

    def _negatives(self, params: Params, generator: torch.Generator) -> Tensor:
        """Negatives [N], drawn by popularity to the power 3/4, with replacement."""
        weight = (params["log_q"] - params["log_q"].max()).exp()
        return torch.multinomial(weight, self.config.negatives, replacement=True, generator=generator)


def _group(key: str) -> str:
    """The group that a leaf of the state adapts with; '' for what never does."""
    if key == "rows.item":
        return ""
    return {"z": "entity", "rows": "rows", "head": "head"}[key.split(".", maxsplit=1)[0]]
