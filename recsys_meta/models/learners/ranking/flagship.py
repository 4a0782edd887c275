"""The flagship: an entity vector adapted by one learned, support-size-aware gradient step, with item-item memory.

Per tower h, with item vectors e_i = E_i + W f_i and popularity logits b:

    z0 = v + V f_u + t(n)                      where an entity with features f_u and n support rows starts
    p  = softmax(s(n) b + z0 . e)              what it would do next
    z  = z0 + a(n) * (mean of support e - E_p[e])      one step down the support's softmax loss, written out
    logits = s(n) b + z . e                    averaged over towers

a(n) (a vector), s(n) and t(n) are linear in log(1 + n) between learned knots, so one shot is not trusted like
twenty, and nothing saturates beyond the sizes seen in training. For n = 0 there is no step. With `negatives` the
expectation and the loss are over a sample with logQ correction (Bengio & Senecal 2008) instead of the catalogue.

To the logits are added g_m(n) * (what memory m says), g(n) = w n / (n + h). Memories are item-item (`memory`: EASE
and cosine) and the closed-form posterior of a linear model on the leading subspace of the past entities' rows, whose
prior is their Gaussian (`linear`). Where the data drift (`Schema.arrival`) popularity among past entities who arrived
at about the same time (`arrivals`) is one more, trusted less with every row. The towers are trained without them, and
(w, h) are chosen on meta-validation entities, whose rows are in no memory: a memory weighed on the entities it was
made from would be over-trusted. Where a memory does not help, w is 0.

Nearest relatives: CAVIA (Zintgraf 2019), Meta-SGD (Li 2017), RESUS (2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import ARRIVAL, Objective
from recsys_meta.core.types import FIRST, IntArray, Interactions, Params, State, Support, TaskBatch
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.models.functional.arrival_popularity import bin_weights, binned_counts
from recsys_meta.models.functional.embeddings import (
    catalogue_features,
    embed_fields,
    init_embedding_bag,
    is_buffer,
    item_features,
    select_fields,
)
from recsys_meta.models.functional.feature_tables import limit_cardinality
from recsys_meta.models.functional.gaussian_posterior import gaussian_posterior
from recsys_meta.models.functional.interpolation import SIZE_KNOTS, support_size_weights
from recsys_meta.models.functional.item_popularity import centred_log_popularity, item_occurrences
from recsys_meta.models.functional.losses import mean_over_tasks, softmax_loss
from recsys_meta.models.functional.masking import mask_reserved_ids, mask_support_items, mask_unknown_items
from recsys_meta.models.functional.regularization import dropout
from recsys_meta.models.functional.sampled_softmax import draw_negatives, log_expected_counts, sampled_softmax_loss
from recsys_meta.models.learners.ranking import item_memories as memory
from recsys_meta.models.learners.ranking.memory_gates import CLOSED_GATE, Kind, gate_weight, score_scale_of, search_gates
from recsys_meta.models.protocols import ParamGroup, PredictorConfig

SMOOTH = 0.01
"""Events an item is taken to have had in every bin of arrivals."""
PRIOR_MOST, ZEROS_MOST = 0.1, 0.01
"""Where the posterior's constants stop growing with the support."""


class FlagshipConfig(PredictorConfig):
    """`dims` is per tower; `memories` () leaves the adapted vector alone."""

    objective: Literal["ranking"] = "ranking"
    dims: int = Field(default=64, ge=1)
    towers: int = Field(default=3, ge=1)
    dropout: float = Field(default=0.3, ge=0, lt=1, description="on item vectors, while training")
    scale: float = Field(default=0.1, gt=0, description="deviation of fresh item vectors")
    size_weight: float = Field(default=0.5, ge=0, le=1, description="a task weighs (query rows)^this")
    decay: float = Field(default=1e-2, ge=0, description="weight decay of vectors")
    negatives: int = Field(default=0, ge=0, description="sampled softmax with so many items; 0: the whole catalogue")
    most_values: int = Field(
        default=80, ge=1, description="features with more values are left out: their rows are met too rarely"
    )
    memories: tuple[Kind, ...] = ("posterior", "ease", "cosine", "recent")
    neighbours: int = Field(default=512, ge=1, description="items that each item of an item-item memory speaks of")
    drift_width: float = Field(default=1.0, gt=0, description="bins of arrivals that count as the same time")
    subspace: int = Field(default=64, ge=1, description="dimensions of the posterior")
    trust: float = Field(default=0.008, gt=0, description="weight of the posterior's prior, for each support row")
    zeros: float = Field(default=0.0007, ge=0, description="how far items not met count as refused, for each row")
    ridge: float = Field(default=5000.0, gt=0, description="of the EASE memory")

    @property
    def steps(self) -> int:
        """Inner steps."""
        return 1


@dataclass(frozen=True)
class Flagship:
    """The learner: see the module."""

    config: FlagshipConfig = field(default_factory=FlagshipConfig)
    name: ClassVar[str] = "flagship"
    Config: ClassVar[type[FlagshipConfig]] = FlagshipConfig
    objectives: ClassVar[frozenset[Objective]] = frozenset({"ranking"})
    coarse: ClassVar[frozenset[str]] = frozenset({"z"})
    """Leaves of a served state that a byte a number is enough for (see `state`)."""

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        """Fresh parameters; popularity and memories come from the given entities. Raises ConfigError unless the data
        set is a ranking."""
        if data.schema.objective != "ranking":
            raise ConfigError(f"the flagship ranks, but '{data.schema.name}' has objective '{data.schema.objective}'")
        c, width = self.config, self.config.towers * self.config.dims
        entity, item, _ = EventIndex.of(data).of_entities(entities)
        counts = item_occurrences(item, data.catalogue)
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
        if data.schema.arrival:
            made = binned_counts(data, entity, item, np.asarray(entities))
            params |= {f"memory.recent.{k}": v for k, v in made.items()}
        if self._sampled(data.catalogue):
            params["log_q"] = log_expected_counts(counts, c.negatives)
            params["pool"] = draw_negatives(params["log_q"], c.negatives, generator)
        for kind in c.memories:
            if kind == "recent":
                continue  # made above, where there are arrivals
            if kind == "posterior":
                made = memory.gaussian_memory(entity, item, data.catalogue, c.subspace)
            else:
                made = memory.build_memories(kind, entity, item, data.catalogue, c.neighbours, c.ridge)
            params |= {f"memory.{kind}.{k}": v for k, v in made.items()}
        return params

    def training_state(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> None:
        """Nothing is needed beside the parameters."""

    def is_frozen(self, key: str) -> bool:
        return is_buffer(key) or key.split(".", 1)[0] in ("memory", "gate", "spread", "log_q", "pool")

    def param_group(self, key: str) -> ParamGroup:
        if key == "popularity_by_size":
            return ParamGroup(rate=5 / 3)
        return ParamGroup(decay=3e-4 if key in ("log_step", "popularity") else self.config.decay)

    def body(self, params: Params) -> Params:
        body = self._body(params, self._vectors(params))
        # [H (D + 1), C]: the mean logits of all towers are one product.
        return body | {"towers": body["vectors"].transpose(1, 2).flatten(0, 1) / self.config.towers}

    def _vectors(self, params: Params) -> Tensor:
        """Item vectors of all towers side by side, [C, H D]."""
        return torch.stack([params["item"], *_fields(params, "items", catalogue_features(params))]).sum(0)

    def _body(self, params: Params, vectors: Tensor) -> Params:
        kept = {k: v for k, v in params.items() if not k.startswith(("catalogue.", "items.")) and k != "item"}
        # [H, C, D + 1]: the last coordinate is popularity, so that a tower's logits are one product.
        split = vectors.reshape(-1, self.config.towers, self.config.dims).transpose(0, 1)
        return kept | {"vectors": torch.cat([split, params["popularity"][:, :, None]], 2).contiguous()}

    def adapt(self, body: Params, support: Support) -> State:
        """z [T, H, D + 1], its last coordinate the popularity scale; for the memories item [T, S], size [T] and, where
        the data drift, the weights of the bins of arrivals [T, B]."""
        rows = mask_unknown_items(support.rows)
        knots = support_size_weights(rows.counts, SIZE_KNOTS)
        z = self._start(body, support, knots)
        if rows.item.shape[1]:
            z = z + self._step(body, rows, z, knots)
        return self._state(body, support, rows, z)

    def start(self, body: Params, support: Support) -> State:
        """What is known of T newcomers before their rows are looked at, from their features and numbers of rows: where
        they start and what would be expected there, z and expected [T, H, D + 1], and rate [T, H, D]."""
        knots = support_size_weights(mask_unknown_items(support.rows).counts, SIZE_KNOTS)
        z = self._start(body, support, knots)
        chance, vectors = self._chance(body, z)
        return {"z": z, "expected": (chance @ vectors).transpose(0, 1), "rate": self._rate(body, knots)}

    def adapt_from(self, body: Params, start: State, support: Support) -> State:
        """`adapt` from a start that was kept. Each newcomer's numbers are the same in any company. Not for training:
        there one product for both sums is twice as fast."""
        # In NumPy: for one newcomer its operations cost a third of torch's, and it adds rows up one after another.
        item, mask = support.rows.item.numpy(), support.rows.mask.numpy() & (support.rows.item.numpy() >= FIRST)
        size, z = mask.sum(1), start["z"].numpy()
        if item.shape[1]:
            met = (body["vectors"].numpy()[:, item, :-1] * mask[:, :, None]).sum(2).transpose(1, 0, 2)
            mean = met / np.maximum(size, 1).astype(np.float32)[:, None, None]
            step = start["rate"].numpy() * (mean - start["expected"].numpy()[:, :, :-1])
            z = z.copy()
            z[:, :, :-1] += step * (size > 0)[:, None, None]
        state = {"z": torch.from_numpy(z), "item": torch.from_numpy(item * mask), "size": torch.from_numpy(size)}
        return state | self._arrival(body, support)

    def _state(self, body: Params, support: Support, rows: Interactions, z: Tensor) -> State:
        state: State = {"z": z, "item": rows.item * rows.mask, "size": rows.counts.long()}
        return state | self._arrival(body, support)

    def _arrival(self, body: Params, support: Support) -> State:
        """Weights of the bins of arrivals, where the data drift."""
        if "memory.recent.edges" in body:
            arrived = support.features[ARRIVAL.name]
            return {"arrival": bin_weights(arrived, body["memory.recent.edges"], self.config.drift_width)}
        return {}

    def _start(self, body: Params, support: Support, knots: Tensor) -> Tensor:
        own = body["start"] + knots @ body["start_by_size"]
        z = torch.stack([own, *_fields(body, "entity", support.features)]).sum(0)
        scale = knots @ body["popularity_by_size"]
        return torch.cat([z.reshape(-1, self.config.towers, self.config.dims), scale[:, :, None]], 2)

    def _step(self, body: Params, rows: Interactions, z: Tensor, knots: Tensor) -> Tensor:
        """a(n) times the negative gradient of the support's mean softmax loss in z; 0 for an empty support."""
        weight = rows.mask / rows.counts.clamp(min=1)[:, None]
        chance, vectors = self._chance(body, z)
        if "pool" in body:
            gap = torch.einsum("ts,htsd->htd", weight, body["vectors"][:, rows.item]) - chance @ vectors
        else:
            # What happened less what was expected, item by item: both sums over vectors become one product.
            happened = torch.zeros_like(chance[0]).scatter_add(1, rows.item, weight)
            gap = (happened - chance) @ vectors
        return _stepped(self._rate(body, knots), gap.transpose(0, 1), rows)

    def _rate(self, body: Params, knots: Tensor) -> Tensor:
        return (knots @ body["log_step"]).exp().reshape(-1, self.config.towers, self.config.dims)

    def _chance(self, body: Params, z: Tensor) -> tuple[Tensor, Tensor]:
        """Chances [H, T, N] of the items that the softmax is over, and their vectors [H, N, D + 1]."""
        vectors = body["vectors"][:, body["pool"]] if "pool" in body else body["vectors"]
        return torch.softmax(self._corrected(body, torch.einsum("thd,hcd->htc", z, vectors)), 2), vectors

    def _corrected(self, body: Params, logits: Tensor) -> Tensor:
        """Logits of the items that a softmax is over: all but the reserved ids, or the pool less log q."""
        if "pool" in body:
            return logits - body["log_q"][body["pool"]]
        return mask_reserved_ids(logits)

    def rank(self, body: Params, state: State) -> Tensor:
        scores = self._towers(body, state)
        for place, (kind, (most, half)) in enumerate(zip(self.config.memories, body["gate"].tolist(), strict=True)):
            if most:
                trusted = gate_weight(kind, (most, half), state["size"].float())
                scores = scores + trusted[:, None] * self._memory_scores(body, kind, state, body["spread"][place])
        return scores

    def _towers(self, body: Params, state: State) -> Tensor:
        """Mean logits of the towers, [T, C]."""
        return state["z"].flatten(1) @ body["towers"]

    def _memory_scores(self, body: Params, kind: Kind, state: State, spread: Tensor) -> Tensor:
        """What a memory says of the catalogue, in units of its spread, [T, C]."""
        rows = Interactions(state["item"], state["item"].float(), state["item"] > 0)
        if kind == "recent":
            return torch.log(state["arrival"] @ body["memory.recent.counts"] + SMOOTH) / spread
        table = {k.rsplit(".", 1)[1]: v for k, v in body.items() if k.startswith(f"memory.{kind}.")}
        if kind == "posterior":
            return self._posterior(table, rows) @ table["items"].T / spread
        said = memory.memory_scores(table, rows, body["vectors"].shape[1]) / spread
        return torch.log1p(said) if kind == "cosine" else said

    def _posterior(self, table: Params, rows: Interactions) -> Tensor:
        """Weights [T, D]. Prior and zeros count in proportion to the support, so that they never drown in it."""
        weight = rows.mask.to(table["items"].dtype)
        size = weight.sum(1)[:, None, None]
        prior = (self.config.trust * size).clamp(min=self.config.trust, max=PRIOR_MOST)
        zeros = (self.config.zeros * size).clamp(max=ZEROS_MOST)
        return gaussian_posterior(
            table, table["items"][rows.item], weight, gain=1.0, target=1.0, zeros=zeros, prior=prior
        )

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        return self.rank(body, state).gather(1, rows.item)

    def support_loss(self, body: Params, state: State, support: Support) -> Tensor:
        """Of the adapted vector alone: that is what the step goes down."""
        return softmax_loss(mask_reserved_ids(self._towers(body, state)), mask_unknown_items(support.rows))

    def meta_loss(
        self, params: Params, batch: TaskBatch, aids: None, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        """Query loss of each tower after the step, summed over towers; what is in the support is not recommended."""
        body = self._body(params, dropout(self._vectors(params), self.config.dropout, generator))
        if "pool" in body:
            body["pool"] = draw_negatives(body["log_q"], self.config.negatives, generator)
        state = self.adapt(body, batch.support)
        query = mask_unknown_items(batch.query)
        towers = range(self.config.towers)
        loss = torch.stack([self._query_loss(body, state["z"][:, h], h, query, state) for h in towers])
        weight = query.counts**self.config.size_weight * query.mask.any(1)
        return mean_over_tasks(loss, weight), {"step": float(params["log_step"].detach().exp().mean())}

    def _query_loss(self, body: Params, z: Tensor, tower: int, query: Interactions, state: State) -> Tensor:
        vectors = body["vectors"][tower]
        if "pool" in body:
            own = torch.einsum("td,tqd->tq", z, vectors[query.item])
            others = z @ vectors[body["pool"]].T
            own_log_q = body["log_q"][query.item].masked_fill(~query.mask, 0.0)
            return sampled_softmax_loss(own, others, query, body["log_q"][body["pool"]], own_log_q)
        logits = self._corrected(body, z @ vectors.T)
        return softmax_loss(*mask_support_items(logits, state["item"], query))

    def _sampled(self, catalogue: int) -> bool:
        return 0 < self.config.negatives < catalogue - FIRST

    @torch.no_grad()
    def calibrate(self, params: Params, episodes: Sequence[TaskBatch]) -> Params:
        """Choose the memories' gates on meta-validation episodes, a batch for each support size (see `gates`)."""
        kinds = [k for k in self.config.memories if k != "recent" or "memory.recent.edges" in params]
        batches = [b for b in episodes if b.support.rows.item.shape[1] or "recent" in kinds]
        if not batches or not kinds:
            return params
        body = self.body(params)
        states = [self.adapt(body, b.support) for b in batches]
        middle = min(range(len(batches)), key=lambda i: abs(batches[i].support.rows.item.shape[1] - 5))
        one = torch.tensor(1.0)
        spread = {k: score_scale_of(k, self._memory_scores(body, k, states[middle], one)) for k in kinds}
        said = {k: [self._memory_scores(body, k, s, spread[k]) for s in states] for k in kinds}
        gates = search_gates(kinds, [self._towers(body, s) for s in states], said, batches)
        return params | {
            "gate": torch.tensor([gates.get(k, CLOSED_GATE) for k in self.config.memories]),
            "spread": torch.stack([spread.get(k, one) for k in self.config.memories]),
        }


def _stepped(rate: Tensor, gap: Tensor, rows: Interactions) -> Tensor:
    """The step [T, H, D + 1]: rate times gap; 0 for an empty support. The popularity scale does not adapt."""
    return functional.pad(rate * gap[:, :, :-1] * rows.mask.any(1)[:, None, None], (0, 1))


def _fields(params: Params, prefix: str, features: Mapping[str, Tensor]) -> list[Tensor]:
    """One vector for each field in use."""
    return embed_fields(params, prefix, select_fields(params, prefix, features))
