"""The n best: against a plain sort."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_meta.inference.ranking import topk
from recsys_meta.inference.ranking.topk import top_k, top_k_rows


def plain(scores: torch.Tensor, n: int) -> topk.TopK:
    found = sorted(((s, i) for i, s in enumerate(scores.tolist()) if s > -math.inf), key=lambda one: (-one[0], one[1]))
    return found[:n]


few = st.lists(st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 2.0]), min_size=0, max_size=120)


@settings(deadline=None)
@given(few, st.integers(0, 130), st.integers(1, 7))
def test_against_a_sort_with_many_ties(values, n, block):
    scores = torch.tensor(values, dtype=torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk, "MIN_PILES", block)
        assert top_k(scores, n) == plain(scores, n)
        assert top_k_rows(torch.stack([scores, scores.flip(0)]), n) == [plain(scores, n), plain(scores.flip(0), n)]


@settings(deadline=None)
@given(few, st.integers(0, 130), st.integers(1, 7), st.data())
def test_positions_to_skip_are_as_if_their_scores_were_least(values, n, block, data):
    scores = torch.tensor(values, dtype=torch.float32)
    skip = data.draw(st.lists(st.integers(0, max(len(values) - 1, 0)), max_size=len(values)))
    without = scores.clone()
    without[skip] = -math.inf
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk, "MIN_PILES", block)
        assert topk.top_k_array(scores.numpy(), n, skip) == plain(without, n)


@pytest.mark.parametrize("size", [topk.MIN_PILES * topk.PILE_SIZE - 1, 16_391, 100_000])
@pytest.mark.parametrize("n", [1, 10, 100])
def test_a_large_catalogue(size, n):
    scores = torch.randn(size, generator=torch.Generator().manual_seed(size)).round(decimals=2)
    scores[::3] = -math.inf
    assert top_k(scores, n) == plain(scores, n)
    assert top_k(torch.zeros(size), n) == [(0.0, i) for i in range(n)]
    assert top_k(torch.full((size,), -math.inf), n) == []
    every = torch.stack([scores, torch.zeros(size), torch.full((size,), -math.inf), scores.flip(0)])
    assert top_k_rows(every, n) == [plain(row, n) for row in every]
