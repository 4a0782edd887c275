"""Masks of rankings."""

from __future__ import annotations

import torch

from recsys_meta.core.types import Interactions
from recsys_meta.models.functional.losses import softmax_loss
from recsys_meta.models.functional.masking import mask_reserved_ids, mask_support_items, mask_unknown_items


def rows_of(items: list[list[int]]) -> Interactions:
    item = torch.tensor(items)
    return Interactions(item, item.float(), item > 0)


def test_reserved_ids_have_no_probability():
    probability = torch.softmax(mask_reserved_ids(torch.zeros(1, 6)), 1)
    assert torch.equal(probability, torch.tensor([[0.0, 0.0, 0.25, 0.25, 0.25, 0.25]]))


def test_unknown_items_do_not_count():
    assert mask_unknown_items(rows_of([[1, 3, 0]])).mask.tolist() == [[False, True, False]]


def test_items_of_the_support_are_neither_drawn_nor_asked_for():
    logits, query = mask_support_items(torch.zeros(2, 5), torch.tensor([[3, 0], [0, 0]]), rows_of([[3, 4], [3, 4]]))
    assert query.mask.tolist() == [[False, True], [True, True]]
    loss = softmax_loss(mask_reserved_ids(logits), query)
    torch.testing.assert_close(loss, torch.log(torch.tensor([2.0, 3.0])))
