"""The flagship for rankings: an entity vector adapted by one learned gradient step that depends on the support size,
with item-item memories.

Per tower h, with item vectors e_i = E_i + W f_i and popularity logits b:

    z0 = v + V f_u + t(n)                      start of an entity with features f_u and n support rows
    p  = softmax(s(n) b + z0 . e)              probabilities of the next item at the start
    z  = z0 + a(n) * (mean of support e - E_p[e])      one step down the support's softmax loss, in closed form
    logits = s(n) b + z . e                    averaged over towers

a(n) (a vector), s(n) and t(n) are linear in log(1 + n) between learned knots, so that the step after one row is
shorter than that after twenty, and nothing saturates beyond the sizes seen in training. For n = 0 there is no step.
With `negatives` the expectation and the loss are over a sample with logQ correction (Bengio & Senecal 2008) instead of
the catalogue.

m dislikes of the support push away, by the step that as many likes would take:

    z = ... - w m / (m + h) * a(m) * (mean of disliked e - E_p[e])

which is Rocchio's relevance feedback (1971) with a learned step. (w, h) are chosen on episodes after training
(`push_gate`); without a clear gain there is no push.

To the logits are added g_m(n) * (logits of memory m), g(n) = w n / (n + h). Memories are item-item (`item_memories`:
EASE and cosine) and the closed-form posterior of a linear model on the leading subspace of the past entities' rows,
whose prior is their Gaussian. Where the data drift (`Schema.arrival`) popularity among past entities who arrived at
about the same time (`arrival_popularity`) is one more, whose weight falls with every row. The towers are trained
without memories, and (w, h) are chosen on meta-validation entities, whose rows are in no memory: a memory weighed on
the entities it was built from would get too large a weight. Where a memory does not help, w is 0.

Nearest relatives: CAVIA (Zintgraf 2019), Meta-SGD (Li 2017), RESUS (2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.schema import ARRIVAL, Objective
from recsys_meta.core.types import (
    FIRST,
    FloatArray,
    IntArray,
    Interactions,
    Params,
    RowSelection,
    State,
    Support,
    TaskBatch,
)
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.models.functional.arrival_popularity import bin_weights, binned_counts
from recsys_meta.models.functional.embeddings import init_embedding_bag, is_buffer, item_features
from recsys_meta.models.functional.feature_tables import limit_cardinality
from recsys_meta.models.functional.host_reads import each_may_hold, is_readable
from recsys_meta.models.functional.interpolation import SIZE_KNOTS
from recsys_meta.models.functional.item_popularity import centred_log_popularity, item_occurrences
from recsys_meta.models.functional.linear_algebra import batch_invariant_product
from recsys_meta.models.functional.losses import mean_over_tasks, softmax_loss
from recsys_meta.models.functional.masking import mask_reserved_ids, mask_unknown_items
from recsys_meta.models.functional.regularization import dropout
from recsys_meta.models.functional.row_selection import gather_selection, select_sampled
from recsys_meta.models.functional.sampled_softmax import draw_negatives, log_expected_counts
from recsys_meta.models.learners.ranking import towers
from recsys_meta.models.learners.ranking.flagship_config import FlagshipConfig
from recsys_meta.models.learners.ranking.item_memories import CoveredRows, build_memories, gaussian_memory
from recsys_meta.models.learners.ranking.memory_gates import (
    CLOSED_GATE,
    gate_weight,
    growing_weight,
    score_scale_of,
    search_gates,
)
from recsys_meta.models.learners.ranking.memory_logits import memory_logits
from recsys_meta.models.learners.ranking.push_gate import search_push
from recsys_meta.models.protocols import EvidenceMixture, ParamGroup, constant_mixture

CALIBRATION_SIZE = 5
"""Support size, in rows, at which the scales of the memories' logits are measured."""


@dataclass(frozen=True)
class Flagship:
    """The learner of rankings that this module describes."""

    config: FlagshipConfig = field(default_factory=FlagshipConfig)
    name: ClassVar[str] = "flagship"
    Config: ClassVar[type[FlagshipConfig]] = FlagshipConfig
    objectives: ClassVar[frozenset[Objective]] = frozenset({"ranking"})
    coarse: ClassVar[frozenset[str]] = frozenset({"z"})
    """Leaves of a cached state for which one byte a number is precise enough."""

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        """Fresh parameters; popularity and memories come from the given entities. Raises ConfigError unless the data
        set is a ranking."""
        data.schema.require_objective("ranking", self.name)
        entity, item, _ = EventIndex.of(data).of_entities(entities)
        counts = item_occurrences(item, data.catalogue)
        params = self._init_towers(data, entities, counts, generator)
        if data.schema.arrival:
            recent = binned_counts(data, entity, item, np.asarray(entities))
            params |= {f"memory.recent.{k}": v for k, v in recent.items()}
        if 0 < self.config.negatives < data.catalogue - FIRST:
            params["log_q"] = log_expected_counts(counts, self.config.negatives)
            params["pool"] = draw_negatives(params["log_q"], self.config.negatives, generator)
        return params | self._build_memories(entity, item, data.catalogue)

    def _init_towers(self, data: Dataset, entities: IntArray, counts: Tensor, generator: torch.Generator) -> Params:
        c, width = self.config, self.config.towers * self.config.dims
        rows = np.arange(FIRST, data.catalogue)
        items, features = (limit_cardinality(table, c.most_values) for table in (data.items, data.entities))
        params = {
            **init_embedding_bag("items", items, rows, width, 0.0, generator),
            **init_embedding_bag("entity", features, entities, width, 0.0, generator),
            **item_features(items),
            "item": torch.randn(data.catalogue, width, generator=generator) * c.scale,
            "start": torch.zeros(width),
            "start_by_size": torch.zeros(len(SIZE_KNOTS), width),
            "log_step": torch.zeros(len(SIZE_KNOTS), width),
            "popularity": centred_log_popularity(counts).repeat(c.towers, 1),
            "popularity_by_size": torch.ones(len(SIZE_KNOTS), c.towers),
            "gate": torch.zeros(len(c.memories), 2),
            "spread": torch.ones(len(c.memories)),
        }
        params["item"][:FIRST] = 0
        return params

    def _build_memories(self, entity: Tensor, item: Tensor, catalogue: int) -> Params:
        """The memories of the configuration but "recent", from the rows (entity [R], item [R]) of past entities."""
        c, params = self.config, Params()
        is_item_based = any(kind in ("ease", "cosine") for kind in c.memories)
        covered = CoveredRows.of_rows(entity, item, catalogue) if is_item_based else None
        for kind in c.memories:
            if kind == "recent":
                continue
            if kind == "posterior":
                memory = gaussian_memory(entity, item, catalogue, c.subspace)
            else:
                assert covered is not None
                memory = build_memories(kind, covered, c.neighbours, c.ridge)
            params |= {f"memory.{kind}.{k}": v for k, v in memory.items()}
        return params

    def training_state(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> None:
        """None: training needs nothing beside the parameters."""

    def is_frozen(self, key: str) -> bool:
        return is_buffer(key) or key.split(".", 1)[0] in ("memory", "gate", "spread", "push", "log_q", "pool")

    def param_group(self, key: str) -> ParamGroup:
        if key == "popularity_by_size":
            return ParamGroup(rate=5 / 3)
        return ParamGroup(decay=3e-4 if key in ("log_step", "popularity") else self.config.decay)

    def body(self, params: Params) -> Params:
        """Parameters, vectors [H, C, D + 1], and towers [H (D + 1), C], with which all mean logits are one product."""
        body = towers.tower_body(params, towers.stacked_item_vectors(params), self.config.towers)
        return body | {"towers": body["vectors"].transpose(1, 2).flatten(0, 1) / self.config.towers}

    def adapt(self, body: Params, support: Support) -> State:
        """z [T, H, D + 1], its last coordinate the popularity scale; for the memories item [T, S], size [T] and, where
        the data drift, the weights of the bins of arrivals [T, B]."""
        rows = mask_unknown_items(support.rows)
        knots = towers.size_weights(rows.counts)
        start = z = towers.start_vectors(body, support, knots)
        if rows.item.shape[1]:
            z = z + towers.gradient_step(body, rows, start, knots)
        if "push" in body and support.dislikes is not None:
            gate = self._push_weight(body, support)[:, None, None]
            z = z - gate * self._dislike_step(body, start, support.dislikes)
        state: State = {"z": z, "item": rows.item * rows.mask, "size": rows.counts.long()}
        return state | self._arrival_weights(body, support)

    def _dislike_step(self, body: Params, start: Tensor, dislikes: Interactions) -> Tensor:
        """Step [T, H, D + 1] from the start [T, H, D + 1] that the dislikes would take if they were likes."""
        rows = mask_unknown_items(dislikes)
        return towers.gradient_step(body, rows, start, towers.size_weights(rows.counts))

    def _push_weight(self, body: Params, support: Support) -> Tensor:
        """Weight [T] of the step away from the dislikes."""
        if support.dislikes is None:
            return torch.zeros(support.size, device=body["push"].device)
        return growing_weight(body["push"], mask_unknown_items(support.dislikes).counts)

    def start(self, body: Params, support: Support) -> State:
        """State of T entities before their rows are looked at, from features and numbers of rows alone: the start and
        the expected item vector there, z and expected [T, H, D + 1], and the step sizes, rate [T, H, D]; of a model
        that pushes away also those of the dislikes, push_rate [T, H, D]."""
        knots = towers.size_weights(mask_unknown_items(support.rows).counts)
        z = towers.start_vectors(body, support, knots)
        probability, vectors = towers.item_probabilities(body, z)
        rate = towers.step_rates(body, knots)
        start: State = {"z": z, "expected": (probability @ vectors).transpose(0, 1), "rate": rate}
        if "push" in body:
            weight = self._push_weight(body, support)
            counts = weight if support.dislikes is None else mask_unknown_items(support.dislikes).counts
            rates = towers.step_rates(body, towers.size_weights(counts))
            start["push_rate"] = weight[:, None, None] * rates
        return start

    def adapt_from(self, body: Params, start: State, support: Support) -> State:
        """The state of `adapt`, from a start of `start`. An entity's numbers do not depend on the others of the batch.
        Not for training."""
        return towers.step_from_start(body, start, support) | self._arrival_weights(body, support)

    def _arrival_weights(self, body: Params, support: Support) -> State:
        """Weights of the bins of arrivals, arrival [T, B], where the data drift; else nothing."""
        if "memory.recent.edges" not in body:
            return {}
        arrival = support.features[ARRIVAL.name]
        return {"arrival": bin_weights(arrival, body["memory.recent.edges"], self.config.drift_width)}

    def rank(self, body: Params, state: State) -> Tensor:
        scores = self._tower_logits(body, state)
        if not self.config.memories:
            return scores
        # Read at once: for one entity a look at each gate takes longer than the product of the towers.
        is_open = each_may_hold(body["gate"][:, 0] > 0)
        for i, kind in enumerate(self.config.memories):
            if is_open[i] and any(k.startswith(f"memory.{kind}.") for k in body):
                weight = gate_weight(kind, body["gate"][i], state["size"].float())
                scores = scores + weight[:, None] * memory_logits(self.config, body, kind, state, body["spread"][i])
        return scores

    def _tower_logits(self, body: Params, state: State) -> Tensor:
        """Mean logits of the towers, [T, C]."""
        return batch_invariant_product(state["z"].flatten(1), body["towers"])

    def factor_table(self, body: Params) -> Tensor | None:
        """The towers, [H (D + 1), C]; None where a memory has a say."""
        return None if bool((body["gate"][:, 0] > 0).any()) else body["towers"]

    def query(self, body: Params, state: State) -> Tensor:
        return state["z"].flatten(1)

    def item_evidence(self, body: Params, state: State, items: IntArray) -> FloatArray:
        vectors, z = body["vectors"].numpy(), state["z"].numpy()
        logits = [np.vecdot(vectors[h][items], z[:, h, None]) for h in range(len(vectors))]
        mean: FloatArray = sum(logits[1:], logits[0]) / np.float32(len(vectors))
        return mean

    def mix(self, state: State, evidence: Tensor) -> EvidenceMixture:
        return constant_mixture(evidence)

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        return self.rank(body, state).gather(1, rows.item)

    def support_loss(self, body: Params, state: State, support: Support) -> Tensor:
        """Softmax loss [T] of the towers without memories, which is the loss that the step descends."""
        return softmax_loss(mask_reserved_ids(self._tower_logits(body, state)), mask_unknown_items(support.rows))

    def select_rows(self, params: Params, batch: TaskBatch, generator: torch.Generator) -> RowSelection | None:
        """Rows that a step reads: those of the batch's items and of the negatives, which are drawn here. None for a
        softmax over the catalogue, for a batch that has as many ids as the catalogue, and on an accelerator, from which
        the number of rows would have to be read back."""
        if "pool" not in params or not is_readable(batch.entity):
            return None
        selection = select_sampled(params, batch, ["item"], self.config.negatives, generator, "pool")
        if selection is None:
            return None
        rows = {**selection.rows, "popularity": selection.rows["item"]}
        return replace(selection, rows=rows, columns=frozenset({"popularity"}))

    def meta_loss(
        self, params: Params, batch: TaskBatch, training_state: None, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Query loss after the step, summed over towers; items of the support are no candidates."""
        selection = self.select_rows(params, batch.whole, generator)
        if selection is not None:
            local = batch.part_of(selection.batch)
            return self.row_loss(gather_selection(params, selection), local, training_state, generator)
        body = self._training_body(params, generator)
        if "pool" in body:
            body["pool"] = draw_negatives(body["log_q"], self.config.negatives, generator)
        return self._query_loss(body, params, batch)

    def row_loss(
        self, params: Params, batch: TaskBatch, training_state: None, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The meta-loss of what `select_rows` selected."""
        return self._query_loss(self._training_body(params, generator), params, batch)

    def _training_body(self, params: Params, generator: torch.Generator) -> Params:
        vectors = dropout(towers.stacked_item_vectors(params), self.config.dropout, generator)
        return towers.tower_body(params, vectors, self.config.towers)

    def _query_loss(self, body: Params, params: Params, batch: TaskBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        c = self.config
        state = self.adapt(body, batch.support)
        query = mask_unknown_items(batch.query)
        each = [towers.query_loss(body, state["z"][:, h], h, query, state["item"]) for h in range(c.towers)]
        loss = torch.stack(each).sum(0)
        every = mask_unknown_items(batch.whole.query)
        weight = every.counts**c.size_weight * every.mask.any(1)
        return mean_over_tasks(loss, weight, batch.shard), {"step": params["log_step"].detach().exp().mean()}

    @torch.no_grad()
    def calibrate(self, params: Params, episodes: Sequence[TaskBatch]) -> Params:
        """Choose the memories' gates on meta-validation episodes, one batch a support size (see `memory_gates`)."""
        kinds = [k for k in self.config.memories if k != "recent" or "memory.recent.edges" in params]
        batches = [b for b in episodes if b.support.rows.item.shape[1] or "recent" in kinds]
        if not batches or not kinds:
            return params
        body = self.body(params)
        states = [self.adapt(body, b.support) for b in batches]
        sizes = [b.support.rows.item.shape[1] for b in batches]
        middle = states[min(range(len(sizes)), key=lambda i: abs(sizes[i] - CALIBRATION_SIZE))]
        one = torch.tensor(1.0)
        scale = {k: score_scale_of(k, memory_logits(self.config, body, k, middle, one)) for k in kinds}
        logits = {k: [memory_logits(self.config, body, k, s, scale[k]) for s in states] for k in kinds}
        gates = search_gates(kinds, [self._tower_logits(body, s) for s in states], logits, batches)
        return params | {
            "gate": torch.tensor([gates.get(k, CLOSED_GATE) for k in self.config.memories]),
            "spread": torch.stack([scale.get(k, one) for k in self.config.memories]),
        }

    @torch.no_grad()
    def choose_push(self, params: Params, episodes: Sequence[TaskBatch], held_out: IntArray) -> Params:
        """Choose how far dislikes push away, on episodes, one batch a support size (see `push_gate`)."""
        batches = [b for b in episodes if b.support.dislikes is not None and b.support.dislikes.mask.any()]
        if not batches:
            return params
        body = self.body({k: v for k, v in params.items() if k != "push"})
        scores, pushes, counts = [], [], []
        for batch in batches:
            support = batch.support
            assert support.dislikes is not None
            scores.append(self.rank(body, self.adapt(body, support)))
            knots = towers.size_weights(mask_unknown_items(support.rows).counts)
            step = self._dislike_step(body, towers.start_vectors(body, support, knots), support.dislikes)
            pushes.append(self._tower_logits(body, {"z": step}))
            counts.append(mask_unknown_items(support.dislikes).counts)
        gate = search_push(scores, pushes, counts, batches, torch.as_tensor(held_out))
        return params if gate == CLOSED_GATE else params | {"push": torch.tensor(gate)}
