"""Starts of adaptations, shared by entities that have the same features and the same numbers of likes and dislikes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from threading import Lock

import torch
from cachetools import LRUCache

from recsys_meta.core.types import Params, State, Support
from recsys_meta.inference.requests.entity import EncodedEntity, RawFeatures, canonical_json
from recsys_meta.models.protocols import WarmStartPredictor

MAX_STARTS = 4096
"""Starts that are held, by features and sizes of the support; the least recently used one goes first."""

MANY_STARTS = 32
"""From so many new kinds on starts are computed as one batch: for whole tables of entities, with other last bits."""

_Kind = tuple[int, int, bytes]  # the numbers of likes and dislikes, and the digest of the features


class WarmStarts:
    """The starts of one predictor. May be shared by threads.

    Each start that is held was computed for one entity alone: in a batch its features would be padded to the others'
    width, which may change the last bit, and an answer may not depend on the other entities.
    """

    def __init__(
        self,
        predictor: WarmStartPredictor,
        body: Params,
        encode: Callable[[Sequence[EncodedEntity]], Support],
        capacity: int = MAX_STARTS,
    ) -> None:
        self.predictor, self._body, self._encode = predictor, body, encode
        self._starts: LRUCache[_Kind, State] = LRUCache(capacity)
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._starts)

    def of(self, entities: Sequence[EncodedEntity]) -> State | None:
        """Return the starts of T entities; None for many that share too little, for which `adapt` is faster."""
        kinds = [_kind(entity) for entity in entities]
        if len(entities) == 1:
            return self._start(kinds[0], entities[0])
        first = {kind: i for i, kind in reversed(list(enumerate(kinds)))}
        if len(first) < MANY_STARTS:
            alone = [self._start(kind, entities[i]) for kind, i in first.items()]
            starts = {name: torch.cat([start[name] for start in alone]) for name in alone[0]}
        elif 2 * len(first) > len(entities):
            return None
        else:
            starts = self._compute([entities[i] for i in first.values()])
        if len(first) == 1:
            return {name: leaf.expand(len(entities), *leaf.shape[1:]) for name, leaf in starts.items()}
        row = {kind: i for i, kind in enumerate(first)}
        return {name: leaf[[row[kind] for kind in kinds]] for name, leaf in starts.items()}

    def _start(self, kind: _Kind, entity: EncodedEntity) -> State:
        with self._lock:
            start: State | None = self._starts.get(kind)
        if start is None:
            start = self._compute([entity])  # outside the lock: a softmax over the catalogue may take milliseconds
            with self._lock:
                self._starts[kind] = start
        return start

    def _compute(self, entities: Sequence[EncodedEntity]) -> State:
        return self.predictor.start(self._body, self._encode(entities))


def _kind(entity: EncodedEntity) -> _Kind:
    return len(entity.items), len(entity.dislikes), _digest(entity.features)


def _digest(features: RawFeatures) -> bytes:
    """Hash features, so that what is held does not tell what they were: starts outlive the entities they were for."""
    if not features:
        return b""
    return hashlib.blake2b(canonical_json(features).encode(errors="surrogatepass"), digest_size=16).digest()
