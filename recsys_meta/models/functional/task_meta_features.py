"""Meta-features of tasks: what a support looks like, in a few numbers, before any learner has adapted to it.

    log_size     log(1 + n), n the number of rows
    empty        1 without rows
    label_mean, label_spread      mean and standard deviation of the labels; 0 in a ranking, whose rows are all liked
    popularity, popularity_spread mean and deviation of log(1 + training count) of the items met, centred over the items
    unknown      share of the rows whose item no training met
    repeated     share of the rows whose item stands in an earlier row
    entropy      entropy of the feature values of the items met (nats), the mean over the fields of ids
    diversity    the same less that of the whole catalogue, 0 without rows
    known        share of the entity's features that are given
    dislikes     log(1 + number of dislikes)

As in algorithm selection (Rice 1976); a recommender is chosen for each person by such by Ekstrand and Riedl (2012) and,
for each request, by Collins, Tkaczyk and Beel (2018).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import FIRST, PAD, UNKNOWN, IntArray, Params, Support
from recsys_meta.models.functional.embeddings import item_features
from recsys_meta.models.functional.item_bias_prior import item_bias_prior
from recsys_meta.models.functional.item_popularity import centred_log_popularity

META_FEATURES = (
    "log_size",
    "empty",
    "label_mean",
    "label_spread",
    "popularity",
    "popularity_spread",
    "unknown",
    "repeated",
    "entropy",
    "diversity",
    "known",
    "dislikes",
)
"""Names of the meta-features, in their order."""


def init_meta_features(data: Dataset, entities: IntArray) -> Params:
    """Tables that meta-features are read from, by the given (training) entities, all under "meta." names.

    Popularity [C] of the items, ids of each field of item features [C, L], entropy [1] over the catalogue, the number
    of known values of each id feature of the entities, and whether labels say anything [1].
    """
    counts, _ = item_bias_prior(data, entities)
    fields = {k: v for k, v in item_features(data.items).items() if not v.is_floating_point()}
    fields = {k.replace("catalogue.", "meta.field.", 1): v for k, v in fields.items()}
    whole = [_entropy(v[FIRST:].reshape(1, -1), _value_weights(v[FIRST:]).reshape(1, -1)) for v in fields.values()]
    level = torch.stack(whole).mean() if whole else torch.zeros(())
    sizes = {f"meta.values.{k}": torch.tensor([c.size]) for k, c in data.entities.items() if not c.numeric}
    has_labels = torch.tensor([float(data.schema.objective != "ranking")])
    own = {
        "meta.popularity": centred_log_popularity(counts),
        "meta.entropy": level.reshape(1),
        "meta.labels": has_labels,
    }
    return {**own, **fields, **sizes}


def task_meta_features(tables: Mapping[str, Tensor], support: Support) -> Tensor:
    """Meta-features [T, D] of T supports, in the order of META_FEATURES; all are finite."""
    rows = support.rows
    mask = rows.mask.to(rows.label.dtype)
    count = mask.sum(1)
    share = mask / count.clamp(min=1)[:, None]
    popularity, known = tables["meta.popularity"], rows.mask & (rows.item >= FIRST)
    item = torch.where(known & (rows.item < len(popularity)), rows.item, UNKNOWN)
    label_mean, label_spread = _moments(rows.label * tables["meta.labels"], share)
    mean, spread = _moments(popularity[item], share)
    entropy = _field_entropy(tables, item, share)
    empty = (count == 0).to(mask.dtype)
    dislikes = torch.zeros_like(count) if support.dislikes is None else support.dislikes.counts
    features = {
        "log_size": torch.log1p(count),
        "empty": empty,
        "label_mean": label_mean,
        "label_spread": label_spread,
        "popularity": mean,
        "popularity_spread": spread,
        "unknown": (share * (item == UNKNOWN)).sum(1),
        "repeated": _repeats(item * known) / count.clamp(min=1),
        "entropy": entropy,
        "diversity": (entropy - tables["meta.entropy"]) * (1 - empty),
        "known": _known_share(tables, support, count),
        "dislikes": torch.log1p(dislikes),
    }
    return torch.stack([features[name] for name in META_FEATURES], 1)


def _moments(values: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [T] of values [T, S] of rows with shares [T, S]."""
    mean = (values * share).sum(1)
    variance = ((values - mean[:, None]).square() * share).sum(1)
    return mean, variance.clamp(min=0).sqrt()


def _repeats(item: Tensor) -> Tensor:
    """Number [T] of rows whose item stands in an earlier row, of items [T, S]; PAD is none."""
    item = item.sort(dim=1).values
    return ((item[:, 1:] == item[:, :-1]) & (item[:, 1:] != PAD)).sum(1)


def _field_entropy(tables: Mapping[str, Tensor], item: Tensor, share: Tensor) -> Tensor:
    """Entropy [T] of the feature values of items [T, S] with shares [T, S], the mean over the fields of ids."""
    total, fields = share.new_zeros(len(share)), 0
    for key, table in tables.items():
        if key.startswith("meta.field."):
            values = table[item]
            weight = _value_weights(values) * share[:, :, None]
            total, fields = total + _entropy(values.flatten(1), weight.flatten(1)), fields + 1
    return total / max(fields, 1)


def _value_weights(values: Tensor) -> Tensor:
    """Weights [..., L] of the values of an item: alike, 1 in all; 0 for padding."""
    is_value = (values != PAD).float()
    return is_value / is_value.sum(-1, keepdim=True).clamp(min=1)


def _entropy(values: Tensor, weight: Tensor) -> Tensor:
    """Entropy [T], in nats, of the distribution that weights [T, N] give to ids [T, N]; 0 without any weight."""
    if not values.shape[1]:
        return weight.sum(1)
    # Sorted, equal ids stand side by side, so that the weight of each is a difference of running sums.
    values, order = values.sort(dim=1, stable=True)
    running = weight.gather(1, order).double().cumsum(1)
    is_last = torch.ones_like(values, dtype=torch.bool)
    is_last[:, :-1] = values[:, 1:] != values[:, :-1]
    until = (running * is_last).cummax(1).values
    before = torch.cat([torch.zeros_like(until[:, :1]), until[:, :-1]], 1)
    chance = (running - before) * is_last / running[:, -1:].clamp(min=1e-12)
    entropy: Tensor = -torch.special.xlogy(chance, chance).sum(1).to(weight.dtype)
    return entropy


def _known_share(tables: Mapping[str, Tensor], support: Support, count: Tensor) -> Tensor:
    """Share [T] of the entity's features that have a value."""
    if not support.features:
        return torch.zeros_like(count)
    known = [
        ~torch.isnan(v) if v.is_floating_point() else ((v >= FIRST) & (v < tables[f"meta.values.{name}"])).any(1)
        for name, v in sorted(support.features.items())
    ]
    return torch.stack([k.to(count.dtype) for k in known]).mean(0)
