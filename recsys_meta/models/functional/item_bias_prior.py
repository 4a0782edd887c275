"""Initial item biases: the best constant score of each item among the training entities."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import FIRST, IntArray
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.models.functional.item_popularity import centred_log_popularity, item_occurrences

SHRINK = 5.0
"""Pseudo-rows with the overall mean that are added to every item's rows."""


def item_bias_prior(data: Dataset, entities: IntArray) -> tuple[Tensor, Tensor]:
    """Occurrences [C] of the items among the given entities, and the best constant score of each item [C].

    The constant is centred log popularity for a ranking, the shrunk mean for ratings, its log-odds for clicks. The two
    reserved ids have the level of an item never seen.
    """
    _, item, label = EventIndex.of(data).of_entities(entities)
    counts = item_occurrences(item, data.catalogue)
    if data.schema.objective == "ranking":
        return counts, centred_log_popularity(counts)
    overall = label.mean() if len(label) else torch.zeros(())
    total = torch.bincount(item, label.double(), minlength=data.catalogue).float()
    mean = (total + SHRINK * overall) / (torch.bincount(item, minlength=data.catalogue) + SHRINK)
    mean[:FIRST] = overall
    return counts, torch.logit(mean, eps=1e-4) if data.schema.objective == "click" else mean
