"""Item counts."""

from __future__ import annotations

import torch

from recsys_meta.models.functional.item_popularity import centred_log_popularity, item_occurrences


def test_counts_leave_reserved_ids_out():
    assert item_occurrences(torch.tensor([0, 1, 2, 4, 4]), 6).tolist() == [0, 0, 1, 0, 2, 0]
    assert item_occurrences(torch.tensor([], dtype=torch.int64), 4).tolist() == [0, 0, 0, 0]


def test_log_popularity_is_centred_over_real_items():
    level = centred_log_popularity(torch.tensor([0.0, 0.0, 3.0, 0.0, 7.0]))
    assert abs(float(level[2:].mean())) < 1e-6
    assert level[0] == level[1] == level[3] < level[2] < level[4]
