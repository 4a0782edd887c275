"""Trial of a model before it may go live: a model that cannot answer would leave popularity to everybody."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys_meta.core.errors import CheckpointError
from recsys_meta.core.types import FIRST, State
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction
from recsys_meta.models.bundle import Bundle
from recsys_meta.models.functional.embeddings import catalogue_features

TRIAL_ITEMS = 10
"""Items, the most popular ones, that the newcomer of a trial has met."""


def try_bundle(bundle: Bundle, recommender: Recommender | None = None) -> State:
    """Try a bundle, with its recommender where there is one; return a state of it.

    Raises CheckpointError, with what is wrong, for a bundle that may not go live.
    """
    try:
        _check_parameters(bundle)
        return try_recommender(recommender or Recommender(bundle))
    except CheckpointError:
        raise
    except Exception as error:  # parameters of a wrong shape fail anywhere, in any way
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"the model fails when it is tried ({type(error).__name__}: {reason})") from None


def try_recommender(recommender: Recommender) -> State:
    """Adapt to a newcomer that met the most popular items, and to one that met nothing; return the state of the first.

    Raises CheckpointError where a score is no finite number or there is not one for each item, and whatever the model
    raises.
    """
    names = [s.item for s in recommender.lists.top_k(recommender.catalog.popularity_scores, TRIAL_ITEMS)]
    label_range = recommender.bundle.schema.label_range
    label = label_range[1] if label_range else 1.0
    events = [Interaction(name, label) for name in names]
    entity = recommender.read_support(EntityRequest(events=events))
    state = recommender.adapt([entity])
    _check_scores(recommender, recommender.scores(state), "events")
    cold = recommender.read_support(EntityRequest())
    if recommender.bundle.schema.home is None:  # where entities have items of their own, a new one has none yet
        _check_scores(recommender, recommender.scores(recommender.adapt([cold])), "no events")
    return state


def _check_parameters(bundle: Bundle) -> None:
    """Raise CheckpointError for a weight that is NaN: one that no trial asks for may be needed later. Features of items
    that are stored with the weights may be: a number that is missing."""
    features = {id(values) for values in catalogue_features(bundle.params).values()}
    for name, values in bundle.params.items():
        if id(values) not in features and values.is_floating_point() and bool(torch.isnan(values).any()):
            raise CheckpointError(f"the model's parameter '{name}' holds values that are no numbers (NaN)")
    items = FIRST + len(bundle.vocab.values["item"])
    if bundle.popularity.shape != (items,) or not bool(torch.isfinite(bundle.popularity).all()):
        raise CheckpointError(f"the model's popularity is not one finite number for each of {items} items")


def _check_scores(recommender: Recommender, scores: Tensor, whom: str) -> None:
    items = recommender.catalog.size()
    if recommender.bundle.schema.home is None and tuple(scores.shape) != (1, items):
        raise CheckpointError(f"the model has {tuple(scores.shape)} scores for {items} items")
    if not bool(torch.isfinite(scores).all()):
        raise CheckpointError(f"the model's scores are no finite numbers for a newcomer with {whom}")
