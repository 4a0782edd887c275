"""Stored items for commands: a model that lists them as servers do, and what tells one state of them from another."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from recsys_meta.inference.new_items.stored_items import StoredItem
from recsys_meta.inference.recommender import Recommender


def with_stored(recommender: Recommender, stored: Sequence[StoredItem]) -> Recommender:
    """Let a model list the items that are stored, and none that is hidden. Raises what the model raises."""
    return recommender.with_items(stored) if stored else recommender


def items_digest(stored: Sequence[StoredItem]) -> str:
    """Compute a digest of items that changes with any of them; empty without items."""
    if not stored:
        return ""
    text = "\n".join(f"{item.revision} {item.available} {item.name!r}" for item in stored)
    return hashlib.sha256(text.encode()).hexdigest()
