"""Memories over a catalogue of which few items were met."""

from __future__ import annotations

import pytest
import torch

from recsys_meta.core.types import Interactions
from recsys_meta.models.learners.ranking import item_memories as memory


@pytest.mark.parametrize("kind", ["cosine", "ease"])
def test_what_it_takes_follows_from_the_items_that_were_met(kind):
    entity = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    item = torch.tensor([7, 90_000, 500_000, 7, 90_000, 7, 500_000])
    made = memory.build_memories(kind, memory.CoveredRows.of_rows(entity, item, 1_000_000), 512, 1.0)
    assert made["neighbour"].shape == made["weight"].shape == (4, 3)
    assert sum(t.numel() * t.element_size() for t in made.values()) < 5 * 2**20
    asked = torch.tensor([[90_000, 12]])
    said = memory.memory_scores(
        made, Interactions(asked, torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool)), 1_000_000
    )[0]
    assert set(said.nonzero()[:, 0].tolist()) <= {7, 90_000, 500_000} and said[7] != 0


@pytest.mark.parametrize("kind", ["cosine", "ease"])
def test_a_large_catalogue_has_the_same_memory_without_a_square(kind, monkeypatch):
    entity, item = torch.randint(60, (900,), generator=torch.Generator().manual_seed(0)), torch.arange(900) % 23 + 2
    rows = Interactions(torch.tensor([[2, 5, 9]]), torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool))
    for neighbours in (22, 5):
        covered = memory.CoveredRows.of_rows(entity, item, 25)
        whole = memory.memory_scores(memory.build_memories(kind, covered, neighbours, 4.0), rows, 25)
        with monkeypatch.context() as patch:
            patch.setattr(memory, "MAX_DENSE_ITEMS", 10)
            lists = memory.build_memories(kind, covered, neighbours, 4.0)
        assert lists["neighbour"].shape == (24, neighbours)
        found = memory.memory_scores(lists, rows, 25)
        if neighbours == 22 or kind == "cosine":
            torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-4)
        else:
            assert not torch.allclose(found, whole)


def test_a_memory_with_a_row_for_each_item_still_speaks():
    """As bundles had it before."""
    entity, item = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([2, 3, 2, 3, 5])
    made = memory.build_memories("cosine", memory.CoveredRows.of_rows(entity, item, 6), 3, 1.0)
    row = made["row"].long()
    old = {"neighbour": made["neighbour"][row].long(), "weight": made["weight"][row]}
    rows = Interactions(torch.tensor([[2, 5]]), torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool))
    assert torch.equal(memory.memory_scores(old, rows, 6), memory.memory_scores(made, rows, 6))
