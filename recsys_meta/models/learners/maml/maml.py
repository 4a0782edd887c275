"""MAML over entities (Finn, Abbeel & Levine 2017): q = p - a grad L(S; p), meta-loss L(Q; q), for a batch of tasks.

The parameters that adapt in the inner loop are configured: the entity's own vector, the decision layers (with features
concatenated and no item ids that is MeLU, Lee et al. 2019), or all of them, with the vectors of the support's items.
Inner gradients are written out, and the layers' steps buffers as products of a few rows (`functional.task_layers`). The
outer gradient goes through the step (order 2) or takes the inner gradient as a constant (order 1).

The step does not depend on the support size: that is the method, and its weakness at one shot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.schema import Objective
from recsys_meta.core.types import IntArray, Interactions, Params, RowSelection, State, Support, TaskBatch
from recsys_meta.models.functional.embeddings import is_buffer
from recsys_meta.models.functional.host_reads import is_readable
from recsys_meta.models.functional.item_bias_prior import item_bias_prior
from recsys_meta.models.functional.losses import mean_over_tasks
from recsys_meta.models.functional.regularization import dropout
from recsys_meta.models.functional.row_selection import gather_selection, select_items, select_sampled
from recsys_meta.models.functional.sampled_softmax import draw_negatives, init_negatives
from recsys_meta.models.functional.task_layers import OwnLayer
from recsys_meta.models.learners.maml import scorer, task_loss
from recsys_meta.models.learners.maml.adapted_scores import adapted_scores, has_written_out_gradient
from recsys_meta.models.learners.maml.gradient_learner import GradientLearner
from recsys_meta.models.learners.maml.inner_loop import LEAVES, descend, entity_gradient
from recsys_meta.models.learners.maml.inner_step import InnerStep
from recsys_meta.models.learners.maml.perceptron import layer_name, perceptron_of
from recsys_meta.models.learners.maml.scorer import ScorerConfig
from recsys_meta.models.protocols import ParamGroup

LOGGED_TASKS = 8
"""Tasks of a batch over which the distance that adapting moved is logged."""


class MamlConfig(ScorerConfig):
    """Configuration of `Maml`; the scorer's fields are those of `ScorerConfig`."""

    adapts: Literal["entity", "head", "last", "body", "all"] = Field(
        default="entity",
        description="what the inner loop adapts: the vector of the entity, layers of the perceptron, or all",
    )
    order: Literal[1, 2] = Field(default=2, description="order of the outer gradient: through the inner step, or not")
    steps: int = Field(default=1, ge=0, description="inner steps")
    rate: float | None = Field(default=None, gt=0, description="inner rates at the start; they are learned")
    dropout: float = Field(default=0.3, ge=0, lt=1, description="dropout of item vectors, while training")
    size_weight: float = Field(default=0.5, ge=0, le=1, description="a task weighs (query rows)^this")
    decay: float = Field(default=1e-2, ge=0, description="weight decay of all but inner rates and start levels")
    bias_speed: float = Field(default=0.1, gt=0, description="outer rate of item biases over the others'")
    rate_speed: float = Field(default=1.0, gt=0, description="outer rate of inner rates over the others'")

    @model_validator(mode="after")
    def _method(self) -> Self:
        if self.adapts in ("head", "last", "body") and not self.hidden:
            raise ValueError(f"adapts '{self.adapts}' needs hidden layers: a dot product has none")
        return self

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups of parameters that adapt, each with a rate of its own."""
        head = ("head",) if self.hidden else ()
        groups = {"entity": ("entity",), "body": ("entity", *head), "all": ("entity", *head, "rows")}
        return groups.get(self.adapts, head)

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts of the model that adapt, as `inner_loop` names them: of the head each layer is one."""
        layers = tuple(layer_name(i) for i in range(len(self.hidden) + 1))
        layers = {"last": layers[-1:], "body": layers[:-1]}.get(self.adapts, layers)
        return tuple(p for group in self.groups for p in (layers if group == "head" else (group,)))

    @property
    def first_rate(self) -> float:
        """Initial inner rate: the gradient of a softmax is far smaller than that of labels."""
        return self.rate or (1.0 if self.objective == "ranking" else 0.1)

    @property
    def rates(self) -> tuple[str, ...]:
        """Names of the inner rates: one a group, and one for the entity's bias, whose scale differs from the
        vector's."""
        return (*self.groups, "level") if self.constant else self.groups


@dataclass(frozen=True)
class Maml(GradientLearner):
    """The learner that this module describes, for rankings, ratings and clicks."""

    config: MamlConfig = field(default_factory=MamlConfig)
    name: ClassVar[str] = "maml"
    Config: ClassVar[type[MamlConfig]] = MamlConfig
    objectives: ClassVar[frozenset[Objective]] = frozenset({"ranking", "rating", "click"})

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        """Fresh parameters; raises ConfigError when the objective is not the data set's."""
        config = self.config
        data.schema.require_objective(config.objective, self.name)
        counts, level = item_bias_prior(data, entities)
        params = scorer.init_scorer(config, data, entities, level, generator)
        params |= self.init_rates(params)
        if config.objective == "ranking":
            params |= init_negatives(counts, config.negatives, generator)
        return params

    def is_frozen(self, key: str) -> bool:
        return is_buffer(key) or key in ("log_q", "negatives")

    def param_group(self, key: str) -> ParamGroup:
        if key.startswith("rate."):
            return ParamGroup(rate=self.config.rate_speed)
        if key == "bias":
            return ParamGroup(rate=self.config.bias_speed)
        # Levels hold the mean label, which must not shrink to 0; nor must a logarithm.
        level = key == "start" or key.endswith(".bias") or key.startswith("log_")
        return ParamGroup(decay=0.0 if level else self.config.decay)

    def body(self, params: Params) -> Params:
        return self.make_body(params, scorer.item_vectors(self.config, params))

    def make_body(self, params: Params, vectors: Tensor) -> Params:
        """Body from the parameters and the item vectors [C, V]."""
        return scorer.scorer_body(self.config, params, vectors, fixed_head=layer_name(0) not in self.config.parts)

    def inner_step(self, body: Params, rates: Mapping[str, Tensor]) -> InnerStep:
        """Step at the rates of groups or parts; that of entity vectors is [Z] where their last coordinate has its
        own."""
        step = super().inner_step(body, rates)
        if "entity" not in step.rates or "level" not in rates:
            return step
        width = body["vectors"].shape[1]
        entity = torch.cat([rates["entity"].expand(width - 1), rates["level"][None]])
        return step._replace(rates={**step.rates, "entity": entity})

    def inner_rows(self, support: Support) -> Interactions:
        return task_loss.informative_rows(self.config, support.rows)

    def query_rows(self, batch: TaskBatch) -> Interactions:
        return task_loss.informative_rows(self.config, batch.query)

    def take_steps(
        self, body: Params, state: State, rows: Interactions, steps: Sequence[InnerStep], *, first_order: bool
    ) -> State:
        return descend(self.config, body, state, rows, steps, first_order=first_order)

    def start_state(self, body: Params, support: Support) -> State:
        """z [T, Z] and, where item vectors adapt, the items of the support [T, S] and their changes [T, S, V]."""
        groups, state = self.config.groups, {"z": scorer.entity_vectors(self.config, body, support)}
        if "rows" in groups:
            item = support.rows.item * task_loss.informative_rows(self.config, support.rows).mask
            # An item met twice has one vector: its first slot owns the change, in the others nothing moves.
            earlier = (item[:, :, None] == item[:, None, :]).tril(-1).any(2)
            state["rows.item"] = item.masked_fill(earlier, 0)
            state["rows.change"] = body["vectors"].new_zeros(*item.shape, body["vectors"].shape[1])
        return state

    def final_state(self, state: State, support: Support) -> State:
        """z [T, Z]; where the head adapts the leaves of its layers (`perceptron`); where item vectors adapt the items
        of the support [T, S] and their changes [T, S, V]."""
        # The first layer may have buffers z, and without a step the shared weights: leaves must not share memory.
        if not support.rows.item.shape[1] or not self.config.steps:
            return {key: value.clone() for key, value in state.items()}
        return {key: value.clone() if key == "z" else value.contiguous() for key, value in state.items()}

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        return task_loss.item_scores(self.config, body, state, rows.item)

    def rank(self, body: Params, state: State) -> Tensor:
        return task_loss.rank_catalogue(self.config, body, state)

    def support_loss(self, body: Params, state: State, support: Support) -> Tensor:
        return self.inner_loss(body, state, self.inner_rows(support))

    def inner_loss(self, body: Params, state: State, rows: Interactions) -> Tensor:
        return task_loss.inner_loss(self.config, body, state, rows)

    def select_rows(self, params: Params, batch: TaskBatch, generator: torch.Generator) -> RowSelection | None:
        """Rows that a step reads: those of the batch's items and of the negatives, which are drawn here. None for a
        softmax over the catalogue, for a batch that has as many ids as the catalogue, and on an accelerator, from which
        the number of rows would have to be read back."""
        if not is_readable(batch.entity):
            return None
        tables = [k for k in ("item", "bias") if k in params]
        if self.config.objective != "ranking":
            return select_items(params, batch, tables, [])
        if "negatives" not in params:
            return None
        return select_sampled(params, batch, tables, self.config.negatives, generator, "negatives")

    def meta_loss(
        self, params: Params, batch: TaskBatch, training_state: None, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Mean query loss after adapting; logs how far adapting moved the first tasks, and the inner rates."""
        selection = self.select_rows(params, batch.whole, generator)
        if selection is not None:
            local = batch.part_of(selection.batch)
            return self.row_loss(gather_selection(params, selection), local, training_state, generator)
        body = self._training_body(params, generator)
        if "negatives" in body:
            body["negatives"] = draw_negatives(body["log_q"], self.config.negatives, generator)
        return self._query_loss(body, batch)

    def row_loss(
        self, params: Params, batch: TaskBatch, training_state: None, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The meta-loss of what `select_rows` selected."""
        return self._query_loss(self._training_body(params, generator), batch)

    def _training_body(self, params: Params, generator: torch.Generator) -> Params:
        return self.make_body(params, self.training_vectors(params, generator))

    def training_vectors(self, params: Params, generator: torch.Generator) -> Tensor:
        """Item vectors [C, V] of a step of training, with dropout."""
        return dropout(scorer.item_vectors(self.config, params), self.config.dropout, generator)

    def _query_loss(self, body: Params, batch: TaskBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        losses, state = self.task_losses(body, batch)
        every = self.query_rows(batch.whole)
        weight = every.counts.to(losses.dtype) ** self.config.size_weight * every.mask.any(1)
        return mean_over_tasks(losses, weight, batch.shard), self._adaptation_metrics(body, state, batch.support)

    def task_losses(self, body: Params, batch: TaskBatch) -> tuple[Tensor, State]:
        steps, rows = self.inner_steps(body), self.inner_rows(batch.support)
        if self._has_own_parts or not has_written_out_gradient(self.config, body, rows, steps):
            return super().task_losses(body, batch)
        z, query = self.start_state(body, batch.support)["z"], self.query_rows(batch)
        first_order = self.config.order == 1
        scores, state = adapted_scores(self.config, body, z, rows, query.item, steps, first_order=first_order)
        return task_loss.label_loss(self.config, scores, query), state

    @property
    def _has_own_parts(self) -> bool:
        """True for a relative of MAML that adapts, or measures a query, in a way of its own."""
        parts = ("adapt", "descend", "take_steps", "query_loss")
        return any(getattr(type(self), name) is not getattr(Maml, name) for name in parts)

    def query_loss(self, body: Params, state: State, batch: TaskBatch) -> Tensor:
        return task_loss.inner_loss(self.config, body, state, self.query_rows(batch), batch.support.rows)

    def entity_gradient(self, body: Params, state: State, rows: Interactions) -> Tensor:
        return entity_gradient(self.config, body, state, rows)

    def entity_width(self, params: Params) -> int:
        body = self.body(params)
        return len(body["first.entity"]) if self.config.hidden else body["vectors"].shape[1]

    def part_shapes(self, params: Params) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]]
        shapes = {"rows": (self.body(params)["vectors"].shape[1],), "entity": (self.entity_width(params),)}
        for part in self.config.parts:
            if part.startswith("head."):
                fan_in, fan_out = params[f"{part}.weight"].shape
                shapes[part] = (fan_in + 1, fan_out)  # the bias last
        return {part: shapes[part] for part in self.config.parts}

    def own_leaves(self, body: Params, state: State) -> State:
        names = [LEAVES[part] for part in self.config.parts if part in LEAVES]
        own = {name: state[name] for name in names}
        if "head" not in self.config.groups:
            return own
        layers = perceptron_of(body, state).spell_out().leaves()
        return own | {k: v for k, v in layers.items() if not k.endswith((".inputs", ".deltas"))}

    def adapted_pairs(self, body: Params, start: State, end: State) -> Iterator[tuple[Tensor, Tensor]]:
        if "entity" in self.config.parts:
            yield start["z"], end["z"]
        if "rows" in self.config.parts:
            vectors = functional.embedding(end["rows.item"], body["vectors"])
            yield vectors, vectors + end["rows.change"]
        if "head" in self.config.groups:
            start_layers, end_layers = perceptron_of(body, {}), perceptron_of(body, end).spell_out()
            for p, q in zip(start_layers.layers, end_layers.layers, strict=True):
                if isinstance(q, OwnLayer):
                    yield p.weight, q.weight
                    yield from [(p.bias, q.bias)] if p.bias is not None and q.bias is not None else []

    def with_constant_steps(self, body: Params, start: State, end: State) -> tuple[Params, State]:
        names = {"head": ("head.", "first."), "rows": ("vectors",)}
        own = tuple(name for group in self.config.groups for name in names.get(group, ()))
        still = {k: v.detach() for k, v in body.items() if k.startswith(own)}
        return body | still, end if "entity" in self.config.parts else end | {"z": start["z"]}

    def row_width(self, body: Params) -> int:
        return body["vectors"].shape[1] + 1

    def row_inputs(self, body: Params, start: State, support: Support) -> tuple[Tensor, Tensor]:
        """Vectors of the items and what the start leaves unexplained of the labels."""
        rows = self.inner_rows(support)
        residual = torch.ones_like(rows.label)
        if self.config.objective != "ranking":
            scores = task_loss.item_scores(self.config, body, {"z": start["z"]}, rows.item)
            residual = rows.label - (torch.sigmoid(scores) if self.config.objective == "click" else scores)
        e = functional.embedding(rows.item, body["vectors"])
        return torch.cat([e, (residual * rows.mask)[:, :, None]], 2), task_loss.row_weights(rows, e.dtype)

    @torch.no_grad()
    def _adaptation_metrics(self, body: Params, state: State, support: Support) -> dict[str, Tensor]:
        # Of the first tasks: of all it would take a tenth of a step.
        count = min(LOGGED_TASKS, support.size)
        state = {k: v[:count] for k, v in state.items()}
        squares = [torch.zeros(count, dtype=state["z"].dtype, device=state["z"].device)]
        if "entity" in self.config.groups:
            start = self.start_state(body, support.of(torch.arange(count, device=state["z"].device)))
            squares.append((state["z"] - start["z"]).square().sum(1))
        if "head" in self.config.groups:
            squares.append(perceptron_of(body, state).change().expand(count))
        if "rows" in self.config.groups:
            squares.append(state["rows.change"].square().sum((1, 2)))
        rates = {f"inner_{k}": v.exp().mean() for k, v in body.items() if k.startswith("rate.")}
        return {"change": torch.stack(squares).sum(0).clamp(min=0).sqrt().mean(), **rates}
