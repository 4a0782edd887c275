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
from torch import Tensor

from recsys_meta.bundle import Bundle, popular_scores
from recsys_meta.episodes import collate
from recsys_meta.errors import DataError
from recsys_meta.features import encode_raw
from recsys_meta.schema import ARRIVAL
from recsys_meta.state import dump_state, load_state
from recsys_meta.types import FIRST, UNKNOWN, State, Support

__all__ = [
    "Answer", "Diagnosis", "Interaction", "Known", "Newcomer", "Recommender", "Scored", "dump_state", "load_state",
    "recommend",
]  # fmt: skip

MAX_SUPPORT = 500
"""Most recent positives that an adaptation looks at."""


LATEST = 253_402_300_799.0
"""A time after every other (the end of the year 9999): numbers beyond the training range count as its end."""


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
        content = json.dumps([rows, self.features], sort_keys=True, default=str)
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
        # Plain lists and dictionaries: an index of pandas costs more than adapting does.
        self._names: list[str] = bundle.vocab.values["item"].tolist()
        self._ids = {name: i for i, name in enumerate(self._names, FIRST)}

    @property
    def version(self) -> str:
        """The bundle's version."""
        return self.bundle.version

    def know(self, newcomer: Newcomer) -> Known:
        """Translate a newcomer. Items that the model does not have are listed, not guessed.

        An event without a time is the latest. Of events at the same time the one with the higher label counts.
        Raises DataError for a label that is not finite or outside the schema's range, or a time that is not finite.
        """
        ids = [self._ids.get(e.item, UNKNOWN) for e in newcomer.events]
        last: dict[int, tuple[float, float]] = {}
        unknown = set()
        for event, padded in zip(newcomer.events, ids, strict=True):
            word = self._time(event), self._label(event)
            if padded == UNKNOWN:
                unknown.add(event.item)
            else:
                # The last word on an item counts, and a repetition is no second positive.
                last[padded] = max(word, last.get(padded, word))
        rows = sorted((when, item, label) for item, (when, label) in last.items() if self._counts(label))
        # By item, as the digest has them: sums in another order differ in the last bit.
        recent = sorted((item, label) for _, item, label in rows[-MAX_SUPPORT:])
        items = tuple(item for item, _ in recent)
        ranking = self.bundle.schema.objective == "ranking"
        labels = tuple(1.0 if ranking else label for _, label in recent)
        return Known(items, labels, frozenset(last), tuple(sorted(unknown)), self._features(newcomer))

    def _features(self, newcomer: Newcomer) -> dict[str, object]:
        """The caller's features; an arrival that was not given is the first known time, or else later than all."""
        features = dict(newcomer.features)
        if self.bundle.schema.arrival and features.get(ARRIVAL.name) is None:
            features[ARRIVAL.name] = min((e.time for e in newcomer.events if e.time is not None), default=LATEST)
        return features

    def _counts(self, label: float) -> bool:
        """Whether a row of such a label belongs to the support."""
        schema = self.bundle.schema
        return schema.objective != "ranking" or schema.positive is None or label >= schema.positive

    def _time(self, event: Interaction) -> float:
        if event.time is None:
            return math.inf
        if not math.isfinite(event.time):
            raise DataError(
                f"{event.time} is not a time", field="time", remedy="Give seconds since 1970 or leave it out"
            )
        return event.time

    def _label(self, event: Interaction) -> float:
        schema = self.bundle.schema
        if event.label is None:
            if schema.objective != "ranking":
                raise DataError("a label is needed", field="label", remedy=f"This model predicts {schema.objective}s")
            return math.inf
        low, high = schema.label_range or (-math.inf, math.inf)
        if not (math.isfinite(event.label) and low <= event.label <= high):
            raise DataError(f"{event.label} is not a label from {low:g} to {high:g}", field="label")
        return float(event.label)

    def support(self, known: Sequence[Known]) -> Support:
        """The support of T newcomers as tensors. Raises DataError for a feature the schema does not have."""
        schema = self.bundle.schema
        features = encode_raw(schema.all_entity_features, self.bundle.vocab, "entity", [k.features for k in known])
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
        least = torch.topk(allowed, min(n, len(allowed))).values[-1:]
        # All that tie with the n-th, so that ids decide between them; none when n is 0.
        best = ((allowed >= least) & (allowed > -torch.inf)).nonzero()[:, 0] if len(least) else least.long()
        best = best[torch.argsort(allowed[best], descending=True, stable=True)[:n]]
        names = [self._names[i - FIRST] for i in best.tolist()]
        titles = self.bundle.titles
        return [Scored(n, s, titles.get(n)) for n, s in zip(names, allowed[best].tolist(), strict=True)]

    def ids(self, items: Sequence[str]) -> list[int]:
        """Padded ids of raw items the model has; others are left out."""
        return [self._ids[i] for i in items if i in self._ids]

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
