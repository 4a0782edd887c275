"""Simulated users who watch and rate films, with known ground truth: for tests and for machines without data.

The result is determined by the seed. `latent_factors` describes the model of choice.
"""

from __future__ import annotations

import numpy as np

from recsys_meta.data.simulators.latent_factors import (
    LATENT_DIMS,
    MIN_ROWS,
    GroundTruth,
    SimulatedDataset,
    category_vectors,
    check_sizes,
    numbered_names,
    raw_tables,
    sample_activity,
    sample_choices,
    sample_subset,
    sample_tastes,
    sample_times,
)
from recsys_meta.data.simulators.schemas import GENRES, USER_ATTRIBUTES, USERS


def simulate_users(
    users: int = 1500, items: int = 800, events: int = 60_000, seed: int = 0, share: float = 0.5, drift: float = 0.5
) -> SimulatedDataset[GroundTruth]:
    """Simulate users who watch and rate films.

    `users`, `items` and `events` are the sizes. `share` is the part of the variance of tastes that demographics
    explain, `drift` the strength of trends. Raises ConfigError for sizes that do not fit together.
    """
    check_sizes(users, items, events, MIN_ROWS)
    rng = np.random.default_rng(seed)
    attributes = {name: rng.integers(0, len(values), users) for name, values in USER_ATTRIBUTES}
    genres, genre = sample_subset(rng, GENRES, items, 3, "|")
    tastes, prior = sample_tastes(rng, [(attributes[n], len(v)) for n, v in USER_ATTRIBUTES], LATENT_DIMS, share, 0.7)
    truth = GroundTruth(
        entity_ids=numbered_names("u", users),
        item_ids=numbered_names("f", items),
        taste=tastes,
        latent=0.7 * category_vectors(rng, [(genre, len(GENRES))], LATENT_DIMS, 0.6),
        popularity=rng.normal(size=items),
        trend=drift * rng.normal(size=items),
        arrival=rng.random(users),
        prior=prior,
        row_counts=sample_activity(rng, users, items, events, MIN_ROWS),
    )
    entity, item = sample_choices(rng, truth)
    utility = (truth.taste[entity] * truth.latent[item]).sum(1) + 0.3 * truth.popularity[item]
    rating = np.clip(np.rint(3.2 + 0.6 * utility + rng.normal(scale=0.5, size=len(entity))), 1, 5)
    log = {
        "user": truth.entity_ids[entity],
        "item": truth.item_ids[item],
        "rating": rating,
        "time": sample_times(rng, truth, entity),
    }
    user_table = {"user": truth.entity_ids} | {n: np.array(v)[attributes[n]] for n, v in USER_ATTRIBUTES}
    year = rng.integers(1980, 2020, items).astype(str)
    title = np.array([f"Film {i}" for i in truth.item_ids])
    film_table = {"item": truth.item_ids, "title": title, "genres": genres, "year": year}
    return SimulatedDataset(raw_tables(USERS, rng, log, user_table, film_table, "title"), truth)
