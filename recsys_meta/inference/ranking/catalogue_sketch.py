"""The best of a large catalogue in two stages: a sketch of the items finds some hundreds, which are scored exactly.

The sketch is the projection of the items' factors onto the few directions in which queries and items vary most, rounded
to whole numbers of one byte. A product of such bytes reads a sixteenth of what the exact one reads, and sums of whole
numbers are exact, so that an entity gets the same list whichever entities are ranked with it. A processor without
instructions for bytes takes ten times as long for them as for the same numbers in single precision, in which the sums
are exact too: the faster form is found when the sketch is made. How many directions there are is chosen by recall, on
entities that the directions were not made from; where none are enough there is no sketch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.types import FIRST, FloatArray, IntArray, State
from recsys_meta.inference.ranking.topk import lower_bounds
from recsys_meta.models.protocols import FactorRanking

DIRECTIONS = (32, 64, 128)
"""Numbers of directions that are tried, the fewest first."""
CANDIDATES = 256
"""Items that are scored exactly, at least, beside those that an entity has met, which no list holds."""
MIN_RECALL, RECALL_AT = 0.995, 10
"""Share of the ten best that a sketch has to find on average, of entities that it was not made from."""
_SAMPLE = 1 << 16
_LEVELS = 127
_SHRINKAGE = 0.05
_BYTE_ROWS, _TRIALS = 96, 5


@dataclass(frozen=True)
class CatalogueSketch:
    """Sketch of one ranking's items. projection [D, R]: queries to directions; codes [C, R]: the items', whole numbers
    as int8 or float32."""

    ranking: FactorRanking
    projection: FloatArray
    codes: Tensor

    @property
    def directions(self) -> int:
        """Number of directions, R."""
        return self.codes.shape[1]

    @torch.no_grad()
    def scores(self, state: State) -> Tensor:
        """Score the catalogue for T states, [T, C]: `CANDIDATES` items beside those of the support, or somewhat more,
        as the model does, up to rounding, and below all of these the others, roughly in its order."""
        factors = self.ranking.scores(state)
        rough = self._rough_scores(factors.query)
        if factors.rest is not None:
            rough += factors.rest
        rough[:, :FIRST] = -np.inf
        tasks, catalogue = rough.shape
        bound = _bounds(rough, np.minimum(CANDIDATES + state["size"].numpy(), catalogue - FIRST))
        flat = np.flatnonzero(rough >= bound[:, None])
        row, item = np.divmod(flat, catalogue)
        start = np.searchsorted(row, np.arange(tasks))
        place = np.arange(len(flat)) - start[row]
        items = np.zeros((tasks, place.max() + 1), np.int64)
        items[row, place] = item
        exact = factors.of_items(items)[row, place]
        rough += (np.minimum.reduceat(exact, start) - bound)[:, None]
        rough[:, :FIRST] = 0
        rough.reshape(-1)[flat] = exact
        return torch.from_numpy(rough)

    def _rough_scores(self, query: FloatArray) -> FloatArray:
        """Rough scores [T, C] of queries [T, D], up to a constant."""
        direction = np.matmul(query[:, None], self.projection)[:, 0]
        step = np.maximum(np.abs(direction).max(1, keepdims=True), np.float32(1e-30)) / np.float32(_LEVELS)
        product = _multiply(torch.from_numpy(np.rint(direction / step)), self.codes).numpy()
        # Cast and scaled in one pass; the sums are below 2^24, so that casting is exact.
        out = product if product.dtype == np.float32 else None
        rough: FloatArray = np.multiply(product, step, out=out, dtype=np.float32, casting="unsafe")
        return rough

    def recall(self, state: State, best: Tensor) -> Tensor:
        """Compute the share [T] of the best items [T, N], by exact scores, that are the best here."""
        own = best_items(self.scores(state))
        return (best[:, :, None] == own[:, None]).any(2).float().mean(1)


def _bounds(rough: FloatArray, count: IntArray) -> FloatArray:
    """Find what the best `count` [T] of each row of scores [T, C] are not below, for each row alone."""
    bound = np.empty(len(rough), np.float32)
    for n in np.unique(count):
        rows = count == n
        bound[rows] = lower_bounds(rough if rows.all() else rough[rows], int(n))
    return bound


def find_sketch(
    ranking: FactorRanking | None, states: Sequence[State], score_exactly: Callable[[State], Tensor]
) -> CatalogueSketch | None:
    """Find the sketch of the fewest directions that are enough: made from the first half of some states of typical
    entities, tried on the other half. None where none are enough, and where a ranking has no factors."""
    if ranking is None:
        return None
    half = len(states) // 2
    queries = np.concatenate([ranking.scores(state).query for state in states[:half]]).astype(np.float64)
    basis, weight = _directions(ranking, queries)
    trials = [(state, best_items(score_exactly(state))) for state in states[half:]]
    for count in DIRECTIONS:
        sketch = _quantize(ranking, basis[:, :count], weight[:, :count])
        if float(torch.cat([sketch.recall(state, best) for state, best in trials]).mean()) >= MIN_RECALL:
            return sketch
    return None


def best_items(scores: Tensor) -> Tensor:
    """Find the ids [T, N] of the ten best by scores [T, C]."""
    catalog = scores[:, FIRST:]
    return catalog.topk(min(RECALL_AT, catalog.shape[1])).indices + FIRST


def _directions(ranking: FactorRanking, queries: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Basis [D, R] of the directions, the most important first, for items, and that for queries [D, R]: a product of
    query and item is that of their coordinates, but for the directions that are left out.

    With queries q = L u, u white, the best low-rank approximation of u' (L' F) is by the leading left singular vectors
    of L' F (Eckart and Young 1936).
    """
    second = queries.T @ queries / len(queries)
    # Between what queries were seen to do and that any direction is as likely, by its own size.
    second += _SHRINKAGE * np.diag(np.diag(second)) + 1e-9 * np.trace(second) / len(second) * np.eye(len(second))
    root = np.linalg.cholesky(second)
    catalogue = ranking.tables[0].shape[1]
    sample = np.random.default_rng(0).permutation(np.arange(FIRST, catalogue))[:_SAMPLE]
    items = np.concatenate([table[:, torch.from_numpy(sample)].numpy() for table in ranking.tables]).astype(np.float64)
    items -= items.mean(1, keepdims=True)
    moment = root.T @ (items @ items.T / max(len(sample), 1)) @ root
    vectors = np.linalg.eigh(moment)[1][:, ::-1]
    return root @ vectors, np.linalg.solve(root, np.eye(len(root))).T @ vectors


def _quantize(ranking: FactorRanking, basis: FloatArray, weight: FloatArray) -> CatalogueSketch:
    """Round the coordinates of the items to one byte each, every direction by a scale of its own."""
    coordinates = torch.zeros(ranking.tables[0].shape[1], basis.shape[1])
    start = 0
    for table in ranking.tables:
        part = torch.from_numpy(basis[start : start + len(table)].astype(np.float32))
        coordinates += (part.T @ table).T
        start += len(table)
    coordinates -= coordinates[FIRST:].mean(0)
    scale = coordinates[FIRST:].abs().amax(0).clamp(min=1e-30) / _LEVELS
    codes = (coordinates / scale).round_().clamp_(-_LEVELS, _LEVELS).to(torch.int8).contiguous()
    return CatalogueSketch(ranking, (weight * scale.numpy()).astype(np.float32), _faster_form(codes))


def _multiply(query: Tensor, codes: Tensor) -> Tensor:
    """Products [T, C] of whole numbers, query [T, R] and codes [C, R], int32 or float32: below 2^24, so exact."""
    if codes.dtype is torch.int8:
        return torch._int_mm(query.to(torch.int8), codes.T)
    return query @ codes.T


def _faster_form(codes: Tensor) -> Tensor:
    """The codes [C, R] int8 or, where it multiplies them in less time or the library has no product of bytes, float32,
    which take four times the memory."""
    # A direction after the other in memory: for one query the product reads them in their order.
    numbers = codes.T.float().contiguous().T
    query = codes[: FIRST + 1].float()
    if not _has_byte_product(query, codes):
        return numbers
    return min(codes, numbers, key=lambda form: _fastest(query[:1], form))


def _has_byte_product(query: Tensor, codes: Tensor) -> bool:
    """True where the library multiplies matrices of bytes, and right."""
    few = codes[:_BYTE_ROWS]
    try:
        return torch.equal(_multiply(query, few).float(), _multiply(query, few.float()))
    except (AttributeError, RuntimeError):
        return False


def _fastest(query: Tensor, codes: Tensor) -> float:
    """Seconds that the fastest of some products takes."""
    times = []
    for _ in range(_TRIALS):
        began = time.perf_counter()
        _multiply(query, codes)
        times.append(time.perf_counter() - began)
    return min(times)
