"""Masks of rankings and softmaxes: reserved ids, unknown items, items of the support."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from recsys_meta.core.types import FIRST, Interactions

MASKED_LOGIT = -1e9
"""Logit of what a softmax never draws; finite, so that rows in which all is masked stay numbers."""


def mask_reserved_ids(logits: Tensor) -> Tensor:
    """Logits [..., C] of the catalogue in which padding and the unknown item are never drawn."""
    is_reserved = torch.arange(logits.shape[-1], device=logits.device) < FIRST
    return logits.masked_fill(is_reserved, MASKED_LOGIT)


def mask_unknown_items(rows: Interactions) -> Interactions:
    """Rows without those of unknown items: in a ranking they carry no information."""
    return replace(rows, mask=rows.mask & (rows.item >= FIRST))


def mask_support_items(logits: Tensor, support: Tensor, query: Interactions) -> tuple[Tensor, Interactions]:
    """Logits [T, C] in which items of the support are never drawn, and the query's rows without those items.

    support [T, S] are item ids, 0 where there is none: the reserved id 0 is masked with them.
    """
    in_support = torch.zeros_like(logits, dtype=torch.bool).scatter(1, support, True)
    rows = replace(query, mask=query.mask & ~in_support.gather(1, query.item))
    return logits.masked_fill(in_support, MASKED_LOGIT), rows
