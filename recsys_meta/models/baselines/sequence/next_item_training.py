"""Training of the transformer to predict each row's next item, stopped on training entities that are held back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys_meta.core.types import Interactions, Params
from recsys_meta.models.baselines.sequence.causal_transformer import encode_sequences, init_transformer
from recsys_meta.models.baselines.sequence.next_item_rows import NextItemRows, SequenceBatch
from recsys_meta.models.functional.item_popularity import item_occurrences
from recsys_meta.models.functional.masking import mask_reserved_ids
from recsys_meta.models.functional.sampled_softmax import draw_negatives, log_expected_counts, sampled_softmax_loss

if TYPE_CHECKING:
    from recsys_meta.models.baselines.sequence.sasrec import SasRec

TRUNCATED_ROWS = 10
"""Mean rows of a truncated sequence: supports of a cold-start curve have 1 to 20."""
VALIDATION_SHARE, MAX_VALIDATION = 0.1, 300
"""Training entities held back to stop on: their share, and their greatest number."""
VALIDATION_ROWS = 20
"""First rows of each of these that count: a new entity has no more."""
MAX_CELLS = 20_000_000
"""Most scores that one validation computes."""
MIN_CHECK, PATIENCE = 50, 4
"""Least steps between two validations (an epoch, if that is longer), and validations without a gain that end it."""
MIN_GAIN = 1e-3
"""Least fall of the loss that counts as a gain."""
BETAS = (0.9, 0.98)
"""Decays of Adam's moments, as published."""


def train_transformer(config: SasRec, entity: Tensor, item: Tensor, catalogue: int, *, is_ordered: bool) -> Params:
    """Train on the items [R] of entities [R], numbered from 0, ascending; return the parameters that validate best.

    Rows without an order (`is_ordered` False) are shuffled within each entity anew in every epoch. Where no training
    row follows another nothing is learned, and all item vectors are 0.
    """
    generator = torch.Generator().manual_seed(config.seed)
    params = init_transformer(catalogue, config.dims, config.blocks, config.length, generator)
    shuffling = None if is_ordered else generator
    held = _draw_entities(entity, generator)[entity]
    validation = NextItemRows.of(entity[held], item[held], shuffling)
    entity, item = entity[~held], item[~held]
    rows = NextItemRows.of(entity, item)
    if not len(rows):
        return params | {"items": torch.zeros_like(params["items"])}
    batches = _validation_batches(config, validation if len(validation) else rows, catalogue, generator)
    log_q = log_expected_counts(item_occurrences(item, catalogue), config.negatives)
    interval = max(MIN_CHECK, len(rows) // config.batch_rows)
    best, lowest, failures = params, float("inf"), 0
    with torch.enable_grad():
        leaves = {name: leaf.clone().requires_grad_() for name, leaf in params.items()}
        optimiser = torch.optim.Adam(leaves.values(), lr=config.rate, betas=BETAS, fused=True)
        endless = _training_batches(config, entity, item, shuffling, generator)
        for step, batch in enumerate(islice(endless, config.steps), 1):
            optimiser.zero_grad(set_to_none=True)
            next_item_loss(config, leaves, batch, log_q, generator).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if step % interval and step < config.steps:
                continue
            loss = validation_loss(config, leaves, batches)
            failures += 1
            if loss < lowest - MIN_GAIN:
                best, lowest, failures = {k: v.detach().clone() for k, v in leaves.items()}, loss, 0
            if failures == PATIENCE:
                break
    return best


def next_item_loss(
    config: SasRec, params: Params, batch: SequenceBatch, log_q: Tensor, generator: torch.Generator
) -> Tensor:
    """Sampled softmax loss of the next items of a batch, a scalar; all rows share their negatives."""
    states, target = _row_states(config, params, batch, generator)
    drawn = draw_negatives(log_q, config.negatives, generator)
    positive = (states * F.embedding(target, params["items"])).sum(1, keepdim=True)
    negative = states @ F.embedding(drawn, params["items"]).T
    rows = Interactions(target[:, None], torch.ones_like(positive), torch.ones_like(positive, dtype=torch.bool))
    return sampled_softmax_loss(positive, negative, rows, log_q[drawn], log_q[target][:, None]).mean()


@torch.no_grad()
def validation_loss(config: SasRec, params: Params, batches: Sequence[SequenceBatch]) -> float:
    """Mean loss of a softmax over the whole catalogue."""
    total, rows = 0.0, 0
    for batch in batches:
        states, target = _row_states(config, params, batch)
        total += float(F.cross_entropy(mask_reserved_ids(states @ params["items"].T), target, reduction="sum"))
        rows += len(target)
    return total / rows


def _row_states(
    config: SasRec, params: Params, batch: SequenceBatch, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """States [R, D] and next items [R] of the real rows of a batch."""
    states = encode_sequences(params, batch.item, config.blocks, config.dropout, generator)
    row = batch.mask.flatten().nonzero().flatten()
    return states.flatten(0, 1).index_select(0, row), batch.target.flatten()[row]


def _training_batches(
    config: SasRec, entity: Tensor, item: Tensor, shuffling: torch.Generator | None, generator: torch.Generator
) -> Iterator[SequenceBatch]:
    """Yield the batches of one epoch after the other, without end."""
    mean_rows = TRUNCATED_ROWS if config.truncate else None
    while True:
        rows = NextItemRows.of(entity, item, shuffling)
        yield from rows.batches(config.length, config.batch_rows, generator, mean_rows)


def _validation_batches(
    config: SasRec, rows: NextItemRows, catalogue: int, generator: torch.Generator
) -> list[SequenceBatch]:
    """Batches of the first rows of each entity, of about MAX_CELLS scores at most."""
    length = min(VALIDATION_ROWS, config.length)
    rows = rows.first_rows(length).first(max(length, MAX_CELLS // catalogue))
    return list(rows.batches(length, max(1, MAX_CELLS // (10 * catalogue)), generator))


def _draw_entities(entity: Tensor, generator: torch.Generator) -> Tensor:
    """Mask of the entities to hold back, [U] bool."""
    count = int(entity.max()) + 1 if len(entity) else 0
    held = torch.zeros(count, dtype=torch.bool)
    held[torch.randperm(count, generator=generator)[: min(MAX_VALIDATION, int(VALIDATION_SHARE * count))]] = True
    return held
