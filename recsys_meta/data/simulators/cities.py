"""Simulated cities whose people visit places one after the other, with known choice probabilities.

Every city has places of its own. The next place of a person is drawn in proportion to exp(utility). The utility is the
popularity of the place, plus the taste of the city for its kind of venue, plus the effect of the hour on that kind,
less the distance from the last place, plus a bonus for recent places, less a penalty for the last place itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys_meta.core.arrays import FIRST, FloatArray, IntArray
from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.data.readers.local_time import DAY, HOUR, solar_offset
from recsys_meta.data.simulators.latent_factors import (
    DURATION,
    LATENT_DIMS,
    START_TIME,
    SimulatedDataset,
    TextArray,
    category_vectors,
    numbered_names,
    raw_tables,
    sample_activity,
)
from recsys_meta.data.simulators.schemas import CITIES, CLIMATES, COUNTRIES, VENUE_KINDS

REVISIT_WINDOW = 20
"""Number of latest visits whose places have the revisit bonus; histories of rows are longer."""

_KM_PER_DEGREE = 111.2  # of latitude
_MIN_PLACES, _MIN_PEOPLE, _MIN_VISITS = 5, 2, 5


@dataclass(frozen=True)
class WalkTruth:
    """Ground truth of the visits. Items are sorted by city: city e has the items start[e] to start[e + 1].

    popularity [I]; venue [I]: kind of venue; offset_km [I, 2]: kilometres east and north of the centre of the city;
    taste [E, venues]; hour [24, venues]. `distance_scale_km` is the distance that lowers the utility by one,
    `revisit_bonus` the bonus of a place among the last REVISIT_WINDOW visits, `repeat_penalty` the penalty of the last
    place itself.
    """

    entity_ids: TextArray
    item_ids: TextArray
    start: IntArray
    popularity: FloatArray
    venue: IntArray
    offset_km: FloatArray
    taste: FloatArray
    hour: FloatArray
    distance_scale_km: float = 3.0
    revisit_bonus: float = 1.5
    repeat_penalty: float = 5.0

    @property
    def owner(self) -> IntArray:
        """The city of each item, [I]."""
        return np.repeat(np.arange(len(self.entity_ids)), np.diff(self.start))

    def utility(self, city: IntArray, history: IntArray, hour: IntArray) -> FloatArray:
        """Return the utilities [N, P] of all places of the city of each row for the next visit, -inf beyond its places.

        They rank the places optimally. city [N]; history [N, H]: items of earlier visits of the person, the latest
        first, -1 after the last of them; hour [N].
        """
        history = history[:, :REVISIT_WINDOW]
        count = np.diff(self.start)[city][:, None]
        offset = np.arange(int(count.max(initial=0)))
        exists = offset < count
        place = np.where(exists, self.start[city][:, None] + offset, 0)
        venue = self.venue[place]
        value = self.popularity[place] + self.taste[city[:, None], venue] + self.hour[hour[:, None], venue]
        last = history[:, :1]
        distance = np.sqrt(((self.offset_km[place] - self.offset_km[last]) ** 2).sum(-1)) / self.distance_scale_km
        value -= np.where(last >= 0, distance + self.repeat_penalty * (place == last), 0)
        value += self.revisit_bonus * self._recent_places(city, history, len(offset))
        return np.where(exists, value, -np.inf)

    def _recent_places(self, city: IntArray, history: IntArray, width: int) -> npt.NDArray[np.bool_]:
        """Return the mask [N, width] of places of the city that are in the history."""
        recent = np.zeros((len(city), width + 1), bool)
        local = np.where(history >= 0, history - self.start[city][:, None], width)
        np.put_along_axis(recent, local, True, axis=1)
        return recent[:, :width]

    def scores(self, data: Dataset, entity: IntArray, history: IntArray, hour: IntArray) -> FloatArray:
        """Return the utilities for rows of the prepared data set, [N, C] by the local ids of each entity's catalogue.

        entity [N]: rows of its entities; history [N, H] and hour [N]: padded ids of its vocabulary, not local ids.
        Places without any visit are not in the data set, so they have no column.
        """
        ownership = data.ownership
        assert ownership is not None
        city_names, place_names = (np.array(data.vocab.values[s], dtype=str) for s in ("entity", "item"))
        city = np.searchsorted(self.entity_ids, city_names)
        true_item = np.concatenate([np.full(FIRST, -1), np.searchsorted(self.item_ids, place_names)])
        true_hour = np.concatenate([np.zeros(FIRST, int), np.array(data.vocab.values["context.hour"], dtype=int)])
        utility = self.utility(city[entity], true_item[history], true_hour[hour])
        count = np.diff(ownership.indptr)[entity]
        scores = np.full((len(entity), FIRST + int(count.max(initial=0))), -np.inf)
        column = np.arange(scores.shape[1] - FIRST)
        exists = column < count[:, None]
        item = ownership.item[np.where(exists, ownership.indptr[entity][:, None] + column, 0)]
        place = np.where(exists, true_item[item] - self.start[city[entity]][:, None], 0)
        scores[:, FIRST:] = np.where(exists, np.take_along_axis(utility, place, 1), -np.inf)
        return scores


def simulate_cities(
    cities: int = 80,
    places: int = 6400,
    people: int = 1600,
    events: int = 40_000,
    seed: int = 0,
    share: float = 0.5,
) -> SimulatedDataset[WalkTruth]:
    """Simulate cities whose people visit places.

    `cities`, `places`, `people` and `events` are the sizes. `share` is the part of the variance of a city's taste that
    its country and climate explain. Raises ConfigError for sizes that do not fit together.
    """
    _check_sizes(cities, places, people, events)
    rng = np.random.default_rng(seed)
    country, climate = rng.integers(0, len(COUNTRIES), cities), rng.integers(0, len(CLIMATES), cities)
    place_count = sample_activity(rng, cities, places, places, _MIN_PLACES)
    owner = np.repeat(np.arange(cities), place_count)
    venue = rng.integers(0, len(VENUE_KINDS), places)
    venue_factors = rng.normal(size=(LATENT_DIMS, len(VENUE_KINDS))) / np.sqrt(LATENT_DIMS)
    quarter = rng.normal(scale=5, size=(cities, 3, 2))  # kilometres from the centre; a city has three quarters
    truth = WalkTruth(
        entity_ids=numbered_names("c", cities),
        item_ids=numbered_names("p", places),
        start=np.concatenate([[0], np.cumsum(place_count)]),
        popularity=rng.normal(size=places),
        venue=venue,
        offset_km=quarter[owner, rng.integers(0, 3, places)] + rng.normal(scale=1.5, size=(places, 2)),
        taste=category_vectors(rng, [(country, len(COUNTRIES)), (climate, len(CLIMATES))], LATENT_DIMS, share)
        @ venue_factors,
        hour=_sample_hour_effects(rng),
    )
    centre = _sample_city_coordinates(rng, country)
    city, person, time = _sample_visits(rng, place_count, people, events)
    offset = solar_offset(centre[:, 1]).astype(np.int64)
    hour = (time // HOUR + offset[city]) % 24
    item = _sample_places(rng, truth, city, person, hour)
    log = {
        "city": truth.entity_ids[city],
        "place": truth.item_ids[item],
        "person": numbered_names("r", people)[person],
        "hour": hour,
        "time": time,
    }
    city_table = {
        "city": truth.entity_ids,
        "country": np.array(COUNTRIES)[country],
        "climate": np.array(CLIMATES)[climate],
        "log_population": np.round(np.log10(place_count * 2000.0), 3),
    } | _coordinate_columns(centre)
    place_table = {
        "place": truth.item_ids,
        "venue": np.array(VENUE_KINDS)[venue],
        "price": rng.integers(1, 5, places).astype(str),
        "city": truth.entity_ids[owner],
        "title": np.array([f"{VENUE_KINDS[v]} {i}" for v, i in zip(venue, truth.item_ids, strict=True)]),
    } | _coordinate_columns(_offset_coordinates(centre[owner], truth.offset_km))
    return SimulatedDataset(raw_tables(CITIES, rng, log, city_table, place_table, "title"), truth)


def _check_sizes(cities: int, places: int, people: int, events: int) -> None:
    for name, n, least, each in (
        ("places", places, _MIN_PLACES, cities),
        ("people", people, _MIN_PEOPLE, cities),
        ("events", events, _MIN_VISITS, people),
    ):
        if min(n, each) < 1 or n < least * each:
            raise ConfigError(f"{n:,} {name} do not fit this simulation: at least {max(least * each, 1):,} do")


def _sample_hour_effects(rng: np.random.Generator) -> FloatArray:
    """Sample the effect of each hour on each kind of venue, [24, venues]: a cosine with its peak at a random time."""
    peak = rng.uniform(0, 24, len(VENUE_KINDS))
    effect: FloatArray = 0.8 * np.cos(2 * np.pi * (np.arange(24)[:, None] - peak) / 24)
    return effect


def _sample_city_coordinates(rng: np.random.Generator, country: IntArray) -> FloatArray:
    """Sample latitude and longitude of the cities [E, 2], near the centre of their country."""
    country_centre = rng.uniform((-40, -100), (60, 100), (len(COUNTRIES), 2))
    coordinates: FloatArray = country_centre[country] + rng.normal(scale=4, size=(len(country), 2))
    return np.clip(coordinates, -75, 175)


def _offset_coordinates(centre: FloatArray, km: FloatArray) -> FloatArray:
    """Return the points [n, 2] in degrees that lie km [n, 2] east and north of centres [n, 2] in degrees."""
    north = km[:, 1] / _KM_PER_DEGREE
    return centre + np.column_stack([north, km[:, 0] / (_KM_PER_DEGREE * np.cos(np.radians(centre[:, 0])))])


def _coordinate_columns(at: FloatArray) -> dict[str, npt.NDArray[np.float64]]:
    return {"lat": np.round(at[:, 0], 5), "lon": np.round(at[:, 1], 5)}


def _sample_visits(
    rng: np.random.Generator, place_count: IntArray, people: int, events: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Sample the visits of all people: city, person and time of each [N], sorted by person, then time.

    place_count [E]: number of places of each city, to which its number of people is proportional on average.
    """
    cities = len(place_count)
    residents = _MIN_PEOPLE + rng.multinomial(people - _MIN_PEOPLE * cities, place_count / place_count.sum())
    city_of_person = np.repeat(np.arange(cities), residents)
    visits = sample_activity(rng, people, max(4 * events // people, 4 * _MIN_VISITS), events, _MIN_VISITS)
    person = np.repeat(np.arange(people), visits)
    interval = 1 + rng.exponential(9 * HOUR, events).astype(np.int64)
    first = np.cumsum(visits) - visits
    time_sum = np.cumsum(interval)
    begin = rng.integers(0, DURATION // 2, cities)[city_of_person] + rng.integers(0, 60 * DAY, people)
    time = START_TIME + begin[person] + time_sum - time_sum[first][person]
    return city_of_person[person], person, time


def _sample_places(
    rng: np.random.Generator, truth: WalkTruth, city: IntArray, person: IntArray, hour: IntArray
) -> npt.NDArray[np.int64]:
    """Sample the item [N] of each visit; computed for the first visit of all people at once, then the second, and so
    on, because a visit depends on the ones before it."""
    first = np.searchsorted(person, np.arange(int(person.max()) + 1))
    visit_number = np.arange(len(person)) - first[person]
    history = np.full((len(first), REVISIT_WINDOW), -1)
    item = np.empty(len(person), np.int64)
    for number in range(int(visit_number.max()) + 1):
        rows = np.flatnonzero(visit_number == number)
        utility = truth.utility(city[rows], history[person[rows]], hour[rows])
        choice = np.argmax(utility + rng.gumbel(size=utility.shape), axis=1) + truth.start[city[rows]]
        history[person[rows]] = np.column_stack([choice, history[person[rows], :-1]])
        item[rows] = choice
    return item
