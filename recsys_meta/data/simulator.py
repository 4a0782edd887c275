"""Simulated users, ads and cities whose truth is known: for machines without data, and for tests.

Deterministic by seed. See `world` for how choices come about.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from recsys_meta.data.kinds import (
    ADS,
    CITIES,
    CLIMATES,
    COUNTRIES,
    GENRES,
    USER_KINDS,
    USERS,
    VENUES,
    WARES,
    WORDS,
)
from recsys_meta.data.tables import RawTables, SideTable, in_memory
from recsys_meta.data.world import (
    Simulation,
    Truth,
    activity,
    check_sizes,
    choose,
    mixed,
    mixture,
    moments,
    names,
    some_of,
)
from recsys_meta.schema import Schema

DIMS = 8
LEAST = 10
"""Rows that every entity has."""


def simulate_users(
    users: int = 1500, items: int = 800, events: int = 60_000, seed: int = 0, share: float = 0.5, drift: float = 0.5
) -> Simulation:
    """Users who watch and rate films. `share` of a taste follows from demographics, `drift` is the strength of
    fashion. Raises ConfigError for sizes that do not fit together.
    """
    check_sizes(users, items, events, LEAST)
    rng = np.random.default_rng(seed)
    kinds = {name: rng.integers(0, len(words), users) for name, words in USER_KINDS}
    genres, genre = some_of(rng, GENRES, items, 3, "|")
    truth = Truth(
        entity_ids=names("u", users),
        item_ids=names("f", items),
        taste=0.7 * mixture(rng, [(kinds[n], len(w)) for n, w in USER_KINDS], DIMS, share),
        latent=0.7 * mixture(rng, [(genre, len(GENRES))], DIMS, 0.6),
        popularity=rng.normal(size=items),
        trend=drift * rng.normal(size=items),
        arrival=rng.random(users),
    )
    entity, item = choose(rng, truth, activity(rng, users, items, events, LEAST))
    liking = (truth.taste[entity] * truth.latent[item]).sum(1) + 0.3 * truth.popularity[item]
    rating = np.clip(np.rint(3.2 + 0.6 * liking + rng.normal(scale=0.5, size=len(entity))), 1, 5)
    log = {
        "user": truth.entity_ids[entity],
        "item": truth.item_ids[item],
        "rating": rating,
        "time": moments(rng, truth, entity),
    }
    people = {"user": truth.entity_ids} | {n: np.array(w)[kinds[n]] for n, w in USER_KINDS}
    year = rng.integers(1980, 2020, items).astype(str)
    title = np.array([f"Film {i}" for i in truth.item_ids])
    films = {"item": truth.item_ids, "title": title, "genres": genres, "year": year}
    return Simulation(_tables(USERS, rng, log, people, films, "title"), truth)


def simulate_ads(
    ads: int = 400, users: int = 1200, events: int = 60_000, seed: int = 0, share: float = 0.5, drift: float = 0.3
) -> Simulation:
    """New ads shown to users who click or do not: the label is 0 or 1, about one in six is a click.

    Raises ConfigError for sizes that do not fit together.
    """
    check_sizes(ads, users, events, LEAST)
    rng = np.random.default_rng(seed)
    ware, brand = rng.integers(0, len(WARES), ads), rng.integers(0, 40, ads)
    kinds = {name: rng.integers(0, len(words), users) for name, words in USER_KINDS}
    interests, interest = some_of(rng, WARES, users, 3, "|")
    words, word = some_of(rng, WORDS, ads, 4, " ")
    coded = [(kinds[n], len(w)) for n, w in USER_KINDS] + [(interest, len(WARES))]
    truth = Truth(
        entity_ids=names("a", ads),
        item_ids=names("u", users),
        taste=0.8 * mixture(rng, [(ware, len(WARES)), (brand, 40), (word, len(WORDS))], DIMS, share),
        latent=0.8 * mixture(rng, coded, DIMS, 0.6),
        popularity=-2.4 + 0.5 * rng.normal(size=users),  # how readily a user clicks at all
        trend=drift * rng.normal(size=users),
        arrival=rng.random(ads),
    )
    seen = rng.normal(scale=0.7, size=users)
    entity, item = choose(rng, truth, activity(rng, ads, users, events, LEAST), seen)
    fashion = (2 * truth.arrival[entity] - 1) * truth.trend[item]
    logit = (truth.taste[entity] * truth.latent[item]).sum(1) + truth.popularity[item] + fashion
    click = (rng.random(len(entity)) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    log = {
        "ad": truth.entity_ids[entity],
        "user": truth.item_ids[item],
        "click": click,
        "time": moments(rng, truth, entity),
    }
    brands = names("brand", 40)[brand]
    wares = np.array(WARES)[ware]
    price = np.round(rng.lognormal(3, 0.8, ads), 2)
    sides = {"ad": truth.entity_ids, "category": wares, "advertiser": brands, "words": words, "price": price}
    people = {"user": truth.item_ids} | {n: np.array(w)[kinds[n]] for n, w in USER_KINDS} | {"interests": interests}
    return Simulation(_tables(ADS, rng, log, sides, people, None), truth)


def simulate_cities(
    cities: int = 200, places: int = 1200, events: int = 40_000, seed: int = 0, share: float = 0.5, drift: float = 0.3
) -> Simulation:
    """Cities whose people go to places, the near ones rather than the far: numbers say where everything lies.

    Raises ConfigError for sizes that do not fit together.
    """
    check_sizes(cities, places, events, LEAST)
    rng = np.random.default_rng(seed)
    country, climate = rng.integers(0, len(COUNTRIES), cities), rng.integers(0, len(CLIMATES), cities)
    venue, price = rng.integers(0, len(VENUES), places), rng.integers(1, 5, places)
    # Countries are regions of the map, and places lie around cities.
    centre = rng.uniform((-40, -100), (60, 100), (len(COUNTRIES), 2))
    lies = centre[country] + rng.normal(scale=5, size=(cities, 2))
    found = lies[rng.integers(0, cities, places)] + rng.normal(scale=2, size=(places, 2))
    size = rng.lognormal(13, 1, cities)
    truth = Truth(
        entity_ids=names("c", cities),
        item_ids=names("p", places),
        taste=0.7 * mixture(rng, [(country, len(COUNTRIES)), (climate, len(CLIMATES))], DIMS, share),
        latent=0.7 * mixture(rng, [(venue, len(VENUES)), (price, 5)], DIMS, 0.6),
        popularity=rng.normal(size=places),
        trend=drift * rng.normal(size=places),
        arrival=rng.random(cities),
        where=(lies, found),
        reach=20.0,
    )
    entity, item = choose(rng, truth, activity(rng, cities, places, events, LEAST))
    log = {"city": truth.entity_ids[entity], "place": truth.item_ids[item], "time": moments(rng, truth, entity)}
    towns = {
        "city": truth.entity_ids,
        "country": np.array(COUNTRIES)[country],
        "climate": np.array(CLIMATES)[climate],
        "log_population": np.round(np.log10(size), 3),
    } | _point(lies)
    spots: dict[str, np.ndarray] = {
        "place": truth.item_ids,
        "venue": np.array(VENUES)[venue],
        "price": price.astype(str),
    } | _point(found)
    spots["title"] = np.array([f"{v} {i}" for v, i in zip(spots["venue"], truth.item_ids, strict=True)])
    return Simulation(_tables(CITIES, rng, log, towns, spots, "title"), truth)


def _point(at: np.ndarray) -> dict[str, np.ndarray]:
    return {"lat": np.round(at[:, 0], 4), "lon": np.round(at[:, 1], 4)}


def _tables(
    schema: Schema,
    rng: np.random.Generator,
    log: dict[str, np.ndarray],
    entities: dict[str, np.ndarray],
    items: dict[str, np.ndarray],
    title: str | None,
) -> RawTables:
    name = schema.name
    return RawTables(
        schema=schema,
        events=in_memory(f"{name} events", mixed(rng, pd.DataFrame(log))),
        entities=SideTable(schema.entity, in_memory(f"{name} entities", pd.DataFrame(entities))),
        items=SideTable(schema.item, in_memory(f"{name} items", pd.DataFrame(items))),
        title=title,
        origin=(f"the simulator: {name}",),
    )
