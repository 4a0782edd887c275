"""Tensors of several parts in one dictionary."""

from __future__ import annotations

import torch

from recsys_meta.models.functional.prefixed_keys import PrefixedTensors, add_prefix, select_prefix


def test_parts_are_those_of_a_plain_dictionary_and_are_kept():
    inner = add_prefix("b", {"x": torch.ones(1), "y": torch.zeros(1)})
    plain = {**add_prefix("a", inner), "a1/b/x": torch.ones(2), "size": torch.ones(3)}
    kept = PrefixedTensors(plain)
    assert select_prefix(kept, "a") == select_prefix(plain, "a") == inner
    assert select_prefix(select_prefix(kept, "a"), "b").keys() == {"x", "y"}
    assert select_prefix(kept, "a") is select_prefix(kept, "a")
    assert kept == plain and select_prefix(kept, "c") == {}
