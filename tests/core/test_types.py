import torch

from recsys_meta.core.types import FIRST, PAD, UNKNOWN, Interactions, Support, TaskBatch


def rows():
    mask = torch.tensor([[True, True, True], [True, False, False]])
    return Interactions(torch.tensor([[2, 3, 4], [5, 0, 0]]), torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]]), mask)


def test_reserved_ids_come_before_real_ones():
    assert (PAD, UNKNOWN, FIRST) == (0, 1, 2)


def test_counts_are_of_real_rows_only():
    counts = rows().counts
    assert counts.tolist() == [3.0, 1.0] and counts.dtype == torch.float32


def test_first_keeps_columns_and_shares_no_wider():
    first = rows().first(2)
    assert first.item.tolist() == [[2, 3], [5, 0]]
    assert first.mask.tolist() == [[True, True], [True, False]]
    assert rows().first(9).item.shape == (2, 3)


def test_empty_support_keeps_features_and_no_rows():
    support = Support({"age": torch.tensor([1.0, 2.0])}, rows())
    empty = support.empty()
    assert empty.size == support.size == 2
    assert empty.rows.item.shape == (2, 0) and empty.rows.counts.tolist() == [0.0, 0.0]
    assert empty.features["age"].tolist() == [1.0, 2.0]


def test_to_moves_every_leaf():
    batch = TaskBatch(torch.tensor([0, 1]), Support({"age": torch.zeros(2)}, rows()), rows())
    moved = batch.to(torch.device("meta"))
    leaves = [moved.entity, moved.support.features["age"]]
    leaves += [t for r in (moved.support.rows, moved.query) for t in (r.item, r.label, r.mask)]
    assert all(leaf.device.type == "meta" for leaf in leaves)
