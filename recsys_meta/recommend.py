"""From a newcomer's raw events to a ranked list: the only adaptation code that serving, batch jobs and the command
line have. It calls the same `collate`, `adapt` and `rank` as training and evaluation.

A `Recommender` is immutable after construction and may be shared by threads.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from recsys_meta.bundle import Bundle, popular_scores
from recsys_meta.episodes import collate
from recsys_meta.errors import DataError
from recsys_meta.features import encode_raw
from recsys_meta.types import FIRST, UNKNOWN, State, Support

MAX_SUPPORT = 500
"""Most recent positives that an adaptation looks at."""


@dataclass(frozen=True)
class Interaction:
    """One raw event of a newcomer. `label` None means "it happened"; `time` in seconds since 1970 UTC."""

    item: str
    label: float | None = None
    time: float | None = None


@dataclass(frozen=True)
class Newcomer:
    """What a caller knows of one entity: raw feature values and its interactions in any order."""

    features: Mapping[str, object] = field(default_factory=dict)
    events: Sequence[Interaction] = ()


@dataclass(frozen=True)
class Known:
    """A newcomer in the model's terms: support rows, all items it has met, and raw items the model lacks."""

    items: tuple[int, ...]
    labels: tuple[float, ...]
    seen: frozenset[int]
    unknown: tuple[str, ...]
    features: Mapping[str, object]

    @property
    def digest(self) -> str:
        """Hash of all that adaptation depends on beside the model; the order of events does not matter."""
        rows = sorted(zip(self.items, self.labels, strict=True))
        content = json.dumps([rows, sorted((k, str(v)) for k, v in self.features.items())], ensure_ascii=True)
        return hashlib.sha256(content.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Diagnosis:
    """What one adaptation did: loss of the support before and after, and the norm of its gradient at the start."""

    support_size: int
    steps: int
    loss_before: float
    loss_after: float
    gradient_norm: float


@dataclass(frozen=True)
class Scored:
    """An item of a list."""

    item: str
    score: float
    title: str | None = None


class Recommender:
    """Serves one bundle. All methods are pure; tensors are for one newcomer (T = 1) unless said otherwise."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        with torch.no_grad():
            self.body = {k: v.detach() for k, v in bundle.predictor.body(bundle.params).items()}
            self.popular = popular_scores(bundle)
        self._names = bundle.vocab.values["item"]

    @property
    def version(self) -> str:
        """The bundle's version."""
        return self.bundle.version

    def know(self, newcomer: Newcomer) -> Known:
        """Translate a newcomer. Items that the model does not have are listed, not guessed.

        Raises DataError for a label that is not finite or outside the schema's range.
        """
        schema = self.bundle.schema
        ids = self.bundle.vocab.ids("item", [e.item for e in newcomer.events])
        rows: dict[int, tuple[float, float]] = {}
        seen, unknown = set(), []
        for event, padded in zip(newcomer.events, ids.tolist(), strict=True):
            label = self._label(event)
            if padded == UNKNOWN:
                unknown.append(event.item)
                continue
            seen.add(padded)
            if schema.objective != "ranking" or schema.positive is None or label >= schema.positive:
                when = math.inf if event.time is None else event.time
                # The last word on an item counts, and a repetition is no second positive.
                if padded not in rows or rows[padded][0] <= when:
                    rows[padded] = (when, 1.0 if schema.objective == "ranking" else label)
        recent = sorted(rows.items(), key=lambda r: (r[1][0], r[0]))[-MAX_SUPPORT:]
        items = tuple(i for i, _ in recent)
        labels = tuple(label for _, (_, label) in recent)
        return Known(items, labels, frozenset(seen), tuple(unknown), dict(newcomer.features))

    def _label(self, event: Interaction) -> float:
        schema = self.bundle.schema
        if event.label is None:
            if schema.objective != "ranking":
                raise DataError("a label is needed", field="label", remedy=f"This model predicts {schema.objective}s")
            return math.inf
        low, high = schema.label_range or (-math.inf, math.inf)
        if not (math.isfinite(event.label) and low <= event.label <= high):
            raise DataError(f"{event.label} is not a label from {low:g} to {high:g}", field="label")
        return event.label

    def support(self, known: Sequence[Known]) -> Support:
        """The support of T newcomers as tensors. Raises DataError for a feature the schema does not have."""
        schema = self.bundle.schema
        features = encode_raw(schema.entity_features, self.bundle.vocab, "entity", [k.features for k in known])
        return Support(features, collate([list(k.items) for k in known], [list(k.labels) for k in known]))

    @torch.no_grad()
    def adapt(self, known: Sequence[Known]) -> State:
        """States of T newcomers."""
        return self.bundle.predictor.adapt(self.body, self.support(known))

    @torch.no_grad()
    def scores(self, state: State) -> Tensor:
        """Scores of the whole catalogue, [T, C]."""
        return self.bundle.predictor.rank(self.body, state)

    def top(
        self,
        scores: Tensor,
        n: int,
        *,
        exclude: Collection[int] = (),
        candidates: Collection[int] | None = None,
    ) -> list[Scored]:
        """The n best of scores [C], best first, ties by id; fewer when fewer are left."""
        allowed = scores.clone()
        allowed[:FIRST] = -torch.inf
        if exclude:
            allowed[list(exclude)] = -torch.inf
        if candidates is not None:
            mask = torch.full_like(allowed, -torch.inf)
            mask[[c for c in candidates if c >= FIRST]] = 0
            allowed = allowed + mask
        best = torch.topk(allowed, min(n, len(allowed)))
        pairs = sorted(zip((-best.values).tolist(), best.indices.tolist(), strict=True))
        titles = self.bundle.titles
        names = [(self._names[i - FIRST], -s) for s, i in pairs if s != math.inf]
        return [Scored(str(name), score, titles.get(str(name))) for name, score in names]

    def ids(self, items: Sequence[str]) -> list[int]:
        """Padded ids of raw items the model has; others are left out."""
        return [i for i in self.bundle.vocab.ids("item", items).tolist() if i >= FIRST]

    def diagnose(self, known: Known, state: State) -> Diagnosis:
        """What adapting did. Costs more than adapting itself, so serving calls it after the answer has left."""
        predictor, support = self.bundle.predictor, self.support([known])
        with torch.no_grad():
            before = {k: v.clone() for k, v in predictor.adapt(self.body, support.empty()).items()}
            after = float(predictor.support_loss(self.body, state, support)[0])
        leaves = {k: v.requires_grad_(True) for k, v in before.items() if v.is_floating_point()}
        with torch.enable_grad():
            loss = predictor.support_loss(self.body, before, support)[0]
        gradient = 0.0
        if loss.requires_grad:
            parts = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            gradient = math.sqrt(sum(float(g.square().sum()) for g in parts if g is not None))
        steps = int(getattr(predictor.config, "steps", 1)) if known.items else 0
        return Diagnosis(len(known.items), steps, float(loss.detach()), after, gradient)


@dataclass(frozen=True)
class Answer:
    """A list for one newcomer, and how it came about. `served_by` is adapted, cache, prior or popular."""

    items: list[Scored]
    served_by: str
    support_size: int
    unknown: tuple[str, ...]
    milliseconds: float


def recommend(
    recommender: Recommender, newcomer: Newcomer, n: int = 10, candidates: Sequence[str] | None = None
) -> Answer:
    """Adapt to a newcomer and rank, without a cache: what the command line prints and the API must equal."""
    began = time.perf_counter()
    known = recommender.know(newcomer)
    scores = recommender.scores(recommender.adapt([known]))[0]
    chosen = None if candidates is None else recommender.ids(candidates)
    items = recommender.top(scores, n, exclude=known.seen, candidates=chosen)
    served_by = "adapted" if known.items else "prior"
    return Answer(items, served_by, len(known.items), known.unknown, 1000 * (time.perf_counter() - began))


def dump_state(state: State) -> bytes:
    """A state as a small binary (safetensors)."""
    return save({k: v.contiguous() for k, v in state.items()})


def load_state(content: bytes, like: State | None = None) -> State | None:
    """The state that `dump_state` wrote; None when the bytes are not one, or not shaped like `like`."""
    try:
        state = load(content)
    except (SafetensorError, ValueError, KeyError):
        return None
    if like is not None and {k: v.dtype for k, v in state.items()} != {k: v.dtype for k, v in like.items()}:
        return None
    return state
