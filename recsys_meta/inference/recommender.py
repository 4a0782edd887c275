"""From a newcomer's raw events to a ranked list: the only adaptation code that serving, batch jobs and the command
line have. It calls the same `collate`, `adapt` and `rank` as training and evaluation.

A `Recommender` answers the same whatever it was asked before, and may be shared by threads.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FIRST, UNKNOWN, Interactions, State, Support
from recsys_meta.inference.ranking.filters import FeatureFilter, filter_mask
from recsys_meta.inference.ranking.topk import Best, top_k, top_k_rows
from recsys_meta.inference.requests.encoder import RequestEncoder
from recsys_meta.inference.requests.entity import (
    EncodedEntity,
    EntityCatalogSpec,
    EntityRequest,
    Interaction,
    QueryContext,
    RawFeatures,
    canonical,
)
from recsys_meta.inference.requests.query_context import EncodedQuery, QueryEncoder
from recsys_meta.inference.requests.support_reader import MAX_SUPPORT, SupportReader
from recsys_meta.inference.state_codec import dump_state, load_state, quantize
from recsys_meta.models.bundle import Bundle, popular_scores
from recsys_meta.models.functional.embeddings import catalogue_features
from recsys_meta.models.protocols import ChoicePredictor, UncertainPredictor, WarmStartPredictor

__all__ = [
    "MAX_SUPPORT",
    "AdaptationDiagnostics",
    "EncodedEntity",
    "EncodedQuery",
    "EntityRequest",
    "Interaction",
    "QueryContext",
    "RecommendedList",
    "Recommender",
    "ScoredItem",
    "TopKRequest",
    "dump_state",
    "load_state",
    "recommend",
]  # fmt: skip


MOST_STARTS = 4096
"""Starts of adaptations that are kept, by features and size of the support."""

MANY_STARTS = 32
"""From so many on new starts are worked out together: for whole tables of newcomers, with other last bits."""

FEWEST = 4
"""Newcomers that are ranked at once, at least; fewer are repeated. The library multiplies one row, or two, by another
program than many, with other last bits, and an answer may not depend on who was asked for at the same time."""

_TRIED = 16


@dataclass(frozen=True)
class AdaptationDiagnostics:
    """What one adaptation did: loss of the support before and after, and the norm of its gradient at the start.

    Before is the state of the same newcomer without a row, but with its features and its own catalogue if it has one;
    after is the adapted state. The two also differ where `steps` is 0: then they are the losses without what the
    support's rows were counted for, and with it. A model that judges each row by the others alone may have the greater
    loss after adapting; of one that has counted the row too some of the gain is that it knew the answer.
    """

    support_size: int
    steps: int
    loss_before: float
    loss_after: float
    gradient_norm: float


class ScoredItem(NamedTuple):
    """An item of a list."""

    item: str
    score: float
    title: str | None = None


class TopKRequest(NamedTuple):
    """A list of the n best of the model's catalogue, without some of its items."""

    n: int
    exclude: Collection[int] = ()


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
        self.reader = SupportReader(bundle.schema, self._ids)
        self._table = catalogue_features(bundle.params)
        own = self._table if bundle.schema.home else {}
        self._encoder = RequestEncoder(bundle.schema, bundle.vocab, self._ids, own)
        self._asker = QueryEncoder(bundle.schema, self.reader.fields, self._encoder)
        # Asked once: to hold an object against a protocol takes as long as a small adaptation.
        self._starter = bundle.predictor if isinstance(bundle.predictor, WarmStartPredictor) else None
        self._warm_starts: dict[tuple[int, bytes], State] = {}
        self._coarse: Collection[str] = getattr(bundle.predictor, "coarse", ())
        self.fields, self.repeats = self.reader.fields, self.reader.repeats
        self.read_support = self.reader.read
        self.support = self._encoder.support
        self.unknown_features = self._encoder.unknown
        if bundle.schema.objective == "choice" and not isinstance(bundle.predictor, ChoicePredictor):
            raise ConfigError(
                f"the model's objective is 'choice', but its predictor '{bundle.predictor.name}' cannot choose"
            )

    @property
    def version(self) -> str:
        """The bundle's version."""
        return self.bundle.version

    def check(self, context: RawFeatures) -> None:
        """Raise DataError for the context of an event that this model could not read."""
        self.fields.check(context)
        self._encoder.check(self.fields.of_row(context), self.fields.of_item(context))

    def adapt(self, known: Sequence[EncodedEntity]) -> State:
        """States of T newcomers, rounded as a cache would keep them: an answer never depends on what was cached."""
        return self.adapt_and_serialize(known)[0]

    @torch.no_grad()
    def adapt_and_serialize(self, known: Sequence[EncodedEntity]) -> tuple[State, list[bytes]]:
        """The same, and each as small bytes for `load_state`."""
        support = self.support(known)
        starts = None if self._starter is None else self._starts_of(self._starter, known)
        if self._starter is None or starts is None:
            state = self.bundle.predictor.adapt(self.body, support)
        else:
            state = self._starter.adapt_from(self.body, starts, support)
        return quantize(state, self._coarse)

    def _starts_of(self, starter: WarmStartPredictor, known: Sequence[EncodedEntity]) -> State | None:
        """Where such newcomers start: worked out for the first one of each kind. None for many who share nothing."""
        kinds = [(len(one.items), _digest(one.features)) for one in known]
        if len(known) == 1:
            return self._kept_start(starter, kinds[0], known[0])
        first = {kind: i for i, kind in reversed(list(enumerate(kinds)))}
        if len(first) < MANY_STARTS:
            made = [self._kept_start(starter, kind, known[i]) for kind, i in first.items()]
            starts = {name: torch.cat([one[name] for one in made]) for name in made[0]}
        elif 2 * len(first) > len(known):
            return None
        else:
            starts = starter.start(self.body, self.support([known[i] for i in first.values()]))
        if len(first) == 1:
            return {name: leaf.expand(len(known), *leaf.shape[1:]) for name, leaf in starts.items()}
        place = {kind: i for i, kind in enumerate(first)}
        return {name: leaf[[place[kind] for kind in kinds]] for name, leaf in starts.items()}

    def _kept_start(self, starter: WarmStartPredictor, kind: tuple[int, bytes], one: EncodedEntity) -> State:
        """The start of a kind, worked out where it is new for one who is of it: alone, so that its features are not
        padded for another's sake, which may cost a last bit."""
        start = self._warm_starts.get(kind)
        if start is None:
            if len(self._warm_starts) >= MOST_STARTS:
                self._warm_starts.clear()
            start = self._warm_starts[kind] = starter.start(self.body, self.support([one]))
        return start

    def dump(self, state: State) -> bytes:
        """A state as small bytes, for `load_state`."""
        return dump_state(state, self._coarse)

    @torch.no_grad()
    def scores(self, state: State) -> Tensor:
        """Scores of the whole catalogue, [T, C]."""
        tasks = len(next(iter(state.values())))
        if tasks >= FEWEST or not self.batch_invariant:
            return self.bundle.predictor.rank(self.body, state)
        # Joined, not picked out by place: for one newcomer that takes a quarter of the time.
        enough = {name: torch.cat([leaf] * math.ceil(FEWEST / tasks)) for name, leaf in state.items()}
        return self.bundle.predictor.rank(self.body, enough)[:tasks]

    @cached_property
    def batch_invariant(self) -> bool:
        """Whether newcomers get the same numbers in any company, so that many may be adapted and ranked at once. Tried
        out: how a product is worked out is the business of the library, and of the machine."""
        if self._starter is None:
            return False
        try:
            return self._is_batch_invariant()
        except Exception:  # whoever asks it to adapt will see
            return False

    @torch.no_grad()
    def _is_batch_invariant(self) -> bool:
        names = self._names[:_TRIED]
        turned = [names[i:] + names[:i] for i in range(len(names))]
        states = self.adapt(
            [self.read_support(EntityRequest(events=[Interaction(n) for n in some[:5]])) for some in turned]
        )
        rank, whole = self.bundle.predictor.rank, self.bundle.predictor.rank(self.body, states)
        parts = [slice(i, i + FEWEST + i % 3) for i in range(len(names) - FEWEST)]
        return bool(parts) and all(
            torch.equal(rank(self.body, {k: v[p] for k, v in states.items()}), whole[p]) for p in parts
        )

    def score_catalog(self, state: State, question: EncodedQuery | None = None) -> Tensor:
        """Scores [C] of one newcomer's whole catalogue: for nothing in particular, or for a question."""
        return self.score_catalogs(state, question)[0]

    @torch.no_grad()
    def score_catalogs(self, state: State, question: EncodedQuery | None = None) -> Tensor:
        """The same for T states, [T, C]."""
        if question is None:
            return self.scores(state)
        predictor, every = self.bundle.predictor, torch.arange(question.catalogue)
        tasks = next(iter(state.values())).shape[0]
        rows = question.rows.map(lambda t: t.expand(tasks, *t.shape[1:]))
        if isinstance(predictor, ChoicePredictor):
            scores = predictor.choose(self.body, state, rows, every.expand(tasks, 1, -1))[:, 0]
            return scores.masked_fill(every < FIRST, 0.0)
        wide = rows.map(lambda t: t.expand(tasks, len(every), *t.shape[2:]))
        return predictor.score(self.body, state, replace(wide, item=every.expand(tasks, -1)))

    @torch.no_grad()
    def score_rows(self, state: State, rows: Interactions) -> Tensor:
        """Scores [T, R] of rows."""
        return self.bundle.predictor.score(self.body, state, rows)

    @torch.no_grad()
    def score_std(self, state: State, rows: Interactions) -> Tensor | None:
        """Standard deviation [T, R] of the scores of rows, where the predictor knows it."""
        predictor = self.bundle.predictor
        return predictor.score_std(self.body, state, rows) if isinstance(predictor, UncertainPredictor) else None

    def encode_query(
        self, known: EncodedEntity, moment: QueryContext, told: Mapping[str, RawFeatures] | None = None
    ) -> tuple[EncodedEntity, EncodedQuery]:
        """A question in the model's words, and the newcomer with what was told of items, name to features.

        Raises DataError for a context or features that the model does not have, or a place where it knows of none.
        """
        return self._asker.encode(known, moment, told or {})

    def rows(self, known: EncodedEntity, asked: Sequence[tuple[str, RawFeatures]]) -> Interactions:
        """Rows [1, R] to be judged: items with their contexts; an item that the model lacks is UNKNOWN."""
        for _, words in asked:
            self.fields.check(words, self.fields.row)
        return self._encoder.rows(self.item_ids([item for item, _ in asked], known), [words for _, words in asked])

    def fallback(self, known: EncodedEntity) -> Tensor:
        """Scores [C] by popularity, in the newcomer's own catalogue where it has one: for a model that fails."""
        if known.own is None:
            return self.popular
        met = torch.tensor(known.items, dtype=torch.int64)
        return torch.bincount(met, minlength=self.catalog_size(known.own)).float().log1p()

    def top_k(
        self,
        scores: Tensor,
        n: int,
        *,
        exclude: Collection[int] = (),
        candidates: Collection[int] | None = None,
        own: EntityCatalogSpec | None = None,
        among: Tensor | None = None,
        after: tuple[float, int] | None = None,
    ) -> list[ScoredItem]:
        """The n best of scores [C], best first, ties by id; fewer when fewer are left.

        among [C] bool: where items may be; after: the score and the id of the item that the list goes on behind.
        """
        # In NumPy: for one newcomer its operations cost a third of torch's.
        given = scores.numpy()
        left = given.copy()
        left[:FIRST] = -np.inf
        if among is not None:
            left[~among.numpy()] = -np.inf
        if after is not None:
            score, last = after
            left[(given > score) | ((given == score) & (np.arange(len(given)) <= last))] = -np.inf
        if exclude:
            left[list(exclude)] = -np.inf
        allowed = torch.from_numpy(left)
        if candidates is None:
            return self.to_items(top_k(allowed, n), own)
        # Few of many: nothing else is looked at.
        chosen = torch.tensor(sorted({c for c in candidates if c >= FIRST}), dtype=torch.int64)
        return self.to_items([(score, int(chosen[i])) for score, i in top_k(allowed[chosen], n)], own)

    def top_k_batch(self, scores: Tensor, n: int, known: Sequence[EncodedEntity]) -> list[list[ScoredItem]]:
        """The n best of scores [T, C] for each of T newcomers, without what they have met: `top` of each."""
        if self.bundle.schema.home is not None:
            sizes = [self.catalog_size(one.own) for one in known]
            return [self.top_k(s[:c], n, own=k.own) for s, c, k in zip(scores, sizes, known, strict=True)]
        return [self.to_items(found) for found in self.top_k_ids(scores, [TopKRequest(n, one.seen) for one in known])]

    def top_k_ids(self, scores: Tensor, wishes: Sequence[TopKRequest]) -> list[Best]:
        """What `top` finds for each row of scores [T, C] of the model's catalogue: scores and ids, for `listed`."""
        allowed = scores.numpy().copy()
        allowed[:, :FIRST] = -np.inf
        row = [i for i, wish in enumerate(wishes) for _ in wish.exclude]
        allowed[row, [item for wish in wishes for item in wish.exclude]] = -np.inf
        found = top_k_rows(torch.from_numpy(allowed), max(wish.n for wish in wishes))
        return [some[: wish.n] for some, wish in zip(found, wishes, strict=True)]

    def to_items(self, found: Best, own: EntityCatalogSpec | None = None) -> list[ScoredItem]:
        """Scores and ids as items."""
        of, titles = self._names if own is None else own.names, self.bundle.titles
        return [ScoredItem(name := of[i - FIRST], score, titles.get(name)) for score, i in found]

    def known_item_ids(self, items: Sequence[str], own: EntityCatalogSpec | None = None) -> list[int]:
        """Padded ids of raw items the model (or the entity's own catalogue) has; others are left out."""
        ids = self._ids if own is None else own.ids
        return [ids[i] for i in items if i in ids]

    def item_ids(self, items: Sequence[str], known: EncodedEntity) -> list[int]:
        """The id of each raw item, UNKNOWN for those that neither the model nor the newcomer has."""
        ids = self._ids if known.own is None else known.own.ids
        return [ids.get(i, UNKNOWN) for i in items]

    def item_name(self, item: int, own: EntityCatalogSpec | None = None) -> str:
        """The raw item of an id."""
        return (self._names if own is None else own.names)[item - FIRST]

    def filter_mask(self, rules: Mapping[str, FeatureFilter], known: EncodedEntity) -> Tensor:
        """Which items of the newcomer's catalogue fulfil rules, [C] bool. Raises DataError for a wrong rule."""
        schema = self.bundle.schema
        features: Mapping[str, Tensor] = self._table
        if known.own is not None:
            features = {n: v[0] for n, v in self._encoder.catalogue([known.own]).features.items()}
        return filter_mask(rules, schema.item_features, self.bundle.vocab, features)

    def catalog_size(self, own: EntityCatalogSpec | None = None) -> int:
        """C: items and the two reserved ids, of the model or of an entity's own catalogue."""
        return FIRST + len(self._names if own is None else own.names)

    def diagnose(self, known: Sequence[EncodedEntity]) -> list[AdaptationDiagnostics]:
        """What adapting did. Costs more than adapting itself, so serving calls it after the answer has left."""
        support = self.support(known)
        with torch.no_grad():
            state = self.bundle.predictor.adapt(self.body, support)
            after = self.bundle.predictor.support_loss(self.body, state, support)
        loss, norm = self._loss_and_gradient_norm(support.empty(), support)
        most = int(getattr(self.bundle.predictor.config, "steps", 1))
        figures = zip(loss.tolist(), after.tolist(), norm.tolist(), strict=True)
        return [
            AdaptationDiagnostics(len(k.items), most if k.items else 0, *found)
            for k, found in zip(known, figures, strict=True)
        ]

    def gradient_norms(self, known: EncodedEntity, cases: Sequence[EncodedEntity]) -> Tensor:
        """Norms [T] of the gradients that the supports of some cases have at the state of a newcomer."""
        start = self.support([known])
        start = start.of(torch.zeros(len(cases), dtype=torch.int64))
        return self._loss_and_gradient_norm(start, self.support(cases))[1]

    def _loss_and_gradient_norm(self, start: Support, support: Support) -> tuple[Tensor, Tensor]:
        """Loss [T] of supports at the states of others, and the norm of its gradient there."""
        predictor = self.bundle.predictor
        with torch.no_grad():
            before = {k: v.clone() for k, v in predictor.adapt(self.body, start).items()}
        leaves = [v.requires_grad_(True) for v in before.values() if v.is_floating_point()]
        with torch.enable_grad():
            loss = predictor.support_loss(self.body, before, support)
        square = torch.zeros(support.size)
        if loss.requires_grad:
            # No task touches another's state, so the sum's gradient is each one's own.
            parts = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
            for part in parts:
                square += 0.0 if part is None else part.reshape(support.size, -1).square().sum(1)
        return loss.detach(), square.sqrt()


def _digest(features: RawFeatures) -> bytes:
    """The features in a form that tells nobody what they were: starts outlive the newcomers that they were made for."""
    if not features:
        return b""
    return hashlib.blake2b(canonical(features).encode(errors="surrogatepass"), digest_size=16).digest()


@dataclass(frozen=True)
class RecommendedList:
    """A list for one newcomer, and how it came about. `served_by` is adapted, cache, prior or popular;
    `unknown` are items and `unknown_features` names of features whose values the model lacks; `support` is the digest
    of what was adapted to, `following` the score and the id of the last item where more follow."""

    items: list[ScoredItem]
    served_by: str
    support_size: int
    unknown: tuple[str, ...]
    unknown_features: tuple[str, ...]
    milliseconds: float
    support: str
    following: tuple[float, int] | None


def recommend(
    recommender: Recommender,
    newcomer: EntityRequest,
    n: int = 10,
    candidates: Sequence[str] | None = None,
    moment: QueryContext | None = None,
) -> RecommendedList:
    """Adapt to a newcomer and rank, without a cache: what the command line prints and the API must equal."""
    began = time.perf_counter()
    known, question = recommender.read_support(newcomer), None
    if moment is not None or (known.own is not None and candidates):
        known, question = recommender.encode_query(
            known, moment or QueryContext(), {name: {} for name in candidates or ()}
        )
    scores = recommender.score_catalog(recommender.adapt([known]), question)
    chosen = None if candidates is None else recommender.item_ids(candidates, known)
    lacking = {name for name, i in zip(candidates or (), chosen or (), strict=True) if i < FIRST}
    exclude = known.seen if known.own is None else question.hidden if question else ()
    found = recommender.top_k(scores, n + 1, exclude=exclude, candidates=chosen, own=known.own)
    items, served_by = found[:n], "adapted" if known.items else "prior"
    more = bool(items) and len(found) > n
    following = (items[-1].score, recommender.item_ids([items[-1].item], known)[0]) if more else None
    unknown = tuple(sorted(lacking.union(known.unknown)))
    strange = tuple(recommender.unknown_features(known.features))
    ms = 1000 * (time.perf_counter() - began)
    return RecommendedList(items, served_by, len(known.items), unknown, strange, ms, known.digest, following)
