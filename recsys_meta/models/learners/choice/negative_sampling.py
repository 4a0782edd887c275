"""Softmax loss of choices among a row's item and sampled others, drawn at random or by a hash of the row.

Shape letters as in `core.types`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from recsys_meta.core.types import FIRST, Interactions, TaskBatch
from recsys_meta.models.functional.choice_features import row_history
from recsys_meta.models.functional.host_reads import most_needed
from recsys_meta.models.functional.losses import mean_over_rows
from recsys_meta.models.functional.masking import MASKED_LOGIT


def choice_loss(scores: Tensor, rows: Interactions, candidates: Tensor) -> Tensor:
    """Mean negative log-probability [T] of the first candidate among all; scores and candidates [T, R, K].

    Rows of unknown items, and candidates that repeat the row's item, do not count.
    """
    again = candidates[:, :, 1:] == candidates[:, :, :1]
    rest = scores[:, :, 1:].masked_fill(again, MASKED_LOGIT)
    loss = torch.logsumexp(torch.cat([scores[:, :, :1], rest], 2), 2) - scores[:, :, 0]
    return mean_over_rows(loss, rows.mask & (rows.item >= FIRST))


def sample_negatives(batch: TaskBatch, listed: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Candidates [T, R, 1 + N] of the query's rows: the row's item and N = `count` drawn uniformly with replacement
    from `listed` [T, C]. What a part of a meta-batch gets is what its tasks would get in the whole."""
    rows, shape = batch.query, batch.whole.query.item.shape
    uniform = batch.own(torch.rand(*shape, count, generator=generator, device=generator.device)).to(rows.item.device)
    return _with_others(rows, (uniform * listed.sum(1)[:, None, None]).long(), listed)


def fixed_negatives(rows: Interactions, listed: Tensor, count: int) -> Tensor:
    """Candidates as of `sample_negatives`, chosen by a hash of each row: adapting is deterministic and blind to the
    order of rows."""
    rank = torch.arange(1, count + 1, device=rows.item.device)
    return _with_others(rows, hash_numbers(_row_hash(rows)[:, :, None] + rank * 0x9E3779B9), listed)


def _with_others(rows: Interactions, number: Tensor, listed: Tensor) -> Tensor:
    """Candidates [T, R, 1 + N]: the row's item, then items of a catalogue by number [T, R, N], modulo its size; its
    real items are contiguous."""
    others = FIRST + number % listed.sum(1).clamp(min=1)[:, None, None]
    return torch.cat([rows.item[:, :, None], others.clamp(max=listed.shape[1] - 1)], 2)


def split_halves(rows: Interactions, seasoned: int = 0) -> tuple[Interactions, Interactions]:
    """Split rows by actor into two halves: rows that are counted, and rows that are the targets of a loss.

    A row that counted itself would be no test, and one that counted its actor's next row would leak the future; actors
    are identified by the first item of their history. Rows with less history than `seasoned` are no targets.
    """
    history = row_history(rows)
    length = (history >= FIRST).sum(2)
    root = torch.where(length > 0, history.gather(2, (length - 1).clamp(min=0)[:, :, None]).squeeze(2), rows.item)
    is_target = hash_numbers(root) % 2 == 0
    targets = rows.mask & is_target & (length >= seasoned) & (rows.item >= FIRST)
    return _select_rows(rows, rows.mask & ~is_target), _select_rows(rows, targets)


def _select_rows(rows: Interactions, keep: Tensor) -> Interactions:
    """Rows selected by a mask [T, R], moved to the left; columns that no task needs are dropped."""
    order = torch.argsort((~keep).long(), dim=1, stable=True)[:, : most_needed(keep.sum(1), keep.shape[1])]
    task = torch.arange(len(keep), device=keep.device)[:, None]
    selection = rows.map(lambda t: t[task, order])
    return replace(selection, mask=keep[task, order])


def _row_hash(rows: Interactions) -> Tensor:
    """Hash [T, R] of the content of each row: its item and its history."""
    history = row_history(rows)
    weight = hash_numbers(torch.arange(1, history.shape[2] + 1, device=history.device))
    return hash_numbers(rows.item + (history * weight).sum(2))


def hash_numbers(number: Tensor) -> Tensor:
    """Hash of integers to pseudo-random integers >= 0 (a congruential step and a shift)."""
    spread = number * 6364136223846793005 + 1442695040888963407  # wraps around on purpose
    return (spread ^ (spread >> 29)) & 0x7FFFFFFF
