"""Form of the similarity by content between items."""

from __future__ import annotations

from typing import NamedTuple


class ContentForm(NamedTuple):
    """Form of the similarity by content: powers of rarity and of a new item's length, and what is added to squared
    lengths, in mean ones: with few values an item is not much like others because it has no more."""

    rarity: float = 1.0
    length: float = 1.0
    smooth: float = 0.0


PLAIN_FORM = ContentForm()
"""Cosines of values weighted by their rarity."""
