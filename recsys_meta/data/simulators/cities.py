"""Simulated cities whose people walk from place to place, with a known truth.

A city has places of its own. A person of the city goes from the last place to the next in proportion to the exponential
of: the popularity of the place, plus what the city thinks of such venues and what is sought at that hour of the day,
less the distance, plus a bonus where the person has been lately, less a lot for staying where one is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FIRST, FloatArray, IntArray
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
"""Steps back to which a person remembers where it was; rows have longer histories."""

_KM_PER_DEGREE = 111.2  # in a degree of latitude
_MIN_PLACES, _MIN_PEOPLE, _MIN_VISITS = 5, 2, 5


@dataclass(frozen=True)
class WalkTruth:
    """How the cities really are. Items of a city stand together: those of city e from start[e] to start[e + 1].

    popularity, venue [I]; at [I, 2]: kilometres east and north of the centre; taste [E, venues]; hour [24, venues];
    `reach`: kilometres that cost one unit; `again`: the bonus of a place among the last 20; `stay`: what it costs to
    be at the same place twice in a row.
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
        """Utilities [N, P] of the places of a city for the next step of a person, -inf beyond its places.

        history [N, H]: numbers of the items where the person was, the last one first, -1 where there are no more.
        Nobody can rank better.
        """
        history = history[:, :REVISIT_WINDOW]
        count = np.diff(self.start)[city][:, None]
        offset = np.arange(int(count.max(initial=0)))
        there = offset < count
        place = np.where(there, self.start[city][:, None] + offset, 0)
        venue = self.venue[place]
        value = self.popularity[place] + self.taste[city[:, None], venue] + self.hour[hour[:, None], venue]
        last = history[:, :1]
        gone = np.sqrt(((self.offset_km[place] - self.offset_km[last]) ** 2).sum(-1)) / self.distance_scale_km
        value -= np.where(last >= 0, gone + self.repeat_penalty * (place == last), 0)
        value += self.revisit_bonus * self._recent_places(city, history, len(offset))
        return np.where(there, value, -np.inf)

    def _recent_places(self, city: IntArray, history: IntArray, width: int) -> npt.NDArray[np.bool_]:
        been = np.zeros((len(city), width + 1), bool)
        local = np.where(history >= 0, history - self.start[city][:, None], width)
        np.put_along_axis(been, local, True, axis=1)
        return been[:, :width]

    def scores(self, data: Dataset, entity: IntArray, history: IntArray, hour: IntArray) -> FloatArray:
        """The same for rows of a prepared data set, [N, C] by the local ids of each entity's catalogue.

        entity [N] indexes its entities; history [N, H] and hour [N] are padded ids, as `Rows` has them before items
        are made local. Items that nobody ever took are not in the data set, so they are not here either.
        """
        homes = data.ownership
        assert homes is not None
        cities, items = (np.array(data.vocab.values[s], dtype=str) for s in ("entity", "item"))
        city = np.searchsorted(self.entity_ids, cities)
        known = np.concatenate([np.full(FIRST, -1), np.searchsorted(self.item_ids, items)])
        oclock = np.concatenate([np.zeros(FIRST, int), np.array(data.vocab.values["context.hour"], dtype=int)])
        value = self.utility(city[entity], known[history], oclock[hour])
        count = np.diff(homes.indptr)[entity]
        made = np.full((len(entity), FIRST + int(count.max(initial=0))), -np.inf)
        column = np.arange(made.shape[1] - FIRST)
        there = column < count[:, None]
        item = homes.item[np.where(there, homes.indptr[entity][:, None] + column, 0)]
        place = np.where(there, known[item] - self.start[city[entity]][:, None], 0)
        made[:, FIRST:] = np.where(there, np.take_along_axis(value, place, 1), -np.inf)
        return made


def simulate_cities(
    cities: int = 80,
    places: int = 6400,
    people: int = 1600,
    events: int = 40_000,
    seed: int = 0,
    share: float = 0.5,
) -> SimulatedDataset[WalkTruth]:
    """Cities of people who walk. `share` of a city's taste follows from its country and climate.

    Raises ConfigError for sizes that do not fit together.
    """
    _check_sizes(cities, places, people, events)
    rng = np.random.default_rng(seed)
    country, climate = rng.integers(0, len(COUNTRIES), cities), rng.integers(0, len(CLIMATES), cities)
    held = sample_activity(rng, cities, places, places, _MIN_PLACES)
    owner = np.repeat(np.arange(cities), held)
    venue = rng.integers(0, len(VENUE_KINDS), places)
    kinds = rng.normal(size=(LATENT_DIMS, len(VENUE_KINDS))) / np.sqrt(LATENT_DIMS)
    quarter = rng.normal(scale=5, size=(cities, 3, 2))  # every city has three quarters
    truth = WalkTruth(
        entity_ids=numbered_names("c", cities),
        item_ids=numbered_names("p", places),
        start=np.concatenate([[0], np.cumsum(held)]),
        popularity=rng.normal(size=places),
        venue=venue,
        offset_km=quarter[owner, rng.integers(0, 3, places)] + rng.normal(scale=1.5, size=(places, 2)),
        taste=category_vectors(rng, [(country, len(COUNTRIES)), (climate, len(CLIMATES))], LATENT_DIMS, share) @ kinds,
        hour=_sample_hour_effects(rng),
    )
    lies = _sample_city_coordinates(rng, country)
    city, person, time = _sample_visits(rng, held, people, events)
    offset = solar_offset(lies[:, 1]).astype(np.int64)
    hour = (time // HOUR + offset[city]) % 24
    item = _sample_places(rng, truth, city, person, hour)
    log = {
        "city": truth.entity_ids[city],
        "place": truth.item_ids[item],
        "person": numbered_names("r", people)[person],
        "hour": hour,
        "time": time,
    }
    towns = {
        "city": truth.entity_ids,
        "country": np.array(COUNTRIES)[country],
        "climate": np.array(CLIMATES)[climate],
        "log_population": np.round(np.log10(held * 2000.0), 3),
    } | _coordinate_columns(lies)
    spots = {
        "place": truth.item_ids,
        "venue": np.array(VENUE_KINDS)[venue],
        "price": rng.integers(1, 5, places).astype(str),
        "city": truth.entity_ids[owner],
        "title": np.array([f"{VENUE_KINDS[v]} {i}" for v, i in zip(venue, truth.item_ids, strict=True)]),
    } | _coordinate_columns(_offset_coordinates(lies[owner], truth.offset_km))
    return SimulatedDataset(raw_tables(CITIES, rng, log, towns, spots, "title"), truth)


def _check_sizes(cities: int, places: int, people: int, events: int) -> None:
    for name, n, least, each in (
        ("places", places, _MIN_PLACES, cities),
        ("people", people, _MIN_PEOPLE, cities),
        ("events", events, _MIN_VISITS, people),
    ):
        if min(n, each) < 1 or n < least * each:
            raise ConfigError(f"{n:,} {name} do not fit this world: at least {max(least * each, 1):,} do")


def _sample_hour_effects(rng: np.random.Generator) -> FloatArray:
    """How much a kind of venue is sought at each hour, [24, venues]: each has its best time of the day."""
    best = rng.uniform(0, 24, len(VENUE_KINDS))
    sought: FloatArray = 0.8 * np.cos(2 * np.pi * (np.arange(24)[:, None] - best) / 24)
    return sought


def _sample_city_coordinates(rng: np.random.Generator, country: IntArray) -> FloatArray:
    """Latitude and longitude of the cities [E, 2]; countries are regions of the map."""
    centre = rng.uniform((-40, -100), (60, 100), (len(COUNTRIES), 2))
    lies: FloatArray = centre[country] + rng.normal(scale=4, size=(len(country), 2))
    return np.clip(lies, -75, 175)


def _offset_coordinates(centre: FloatArray, km: FloatArray) -> FloatArray:
    """Points [n, 2] so many kilometres east and north of centres [n, 2] in degrees."""
    north = km[:, 1] / _KM_PER_DEGREE
    return centre + np.column_stack([north, km[:, 0] / (_KM_PER_DEGREE * np.cos(np.radians(centre[:, 0])))])


def _coordinate_columns(at: FloatArray) -> dict[str, npt.NDArray[np.float64]]:
    return {"lat": np.round(at[:, 0], 5), "lon": np.round(at[:, 1], 5)}


def _sample_visits(
    rng: np.random.Generator, held: IntArray, people: int, events: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Who acts when: city, person and time of each step [N], person after person in order of time."""
    lives = _MIN_PEOPLE + rng.multinomial(people - _MIN_PEOPLE * len(held), held / held.sum())
    city_of = np.repeat(np.arange(len(held)), lives)
    steps = sample_activity(rng, people, max(4 * events // people, 4 * _MIN_VISITS), events, _MIN_VISITS)
    person = np.repeat(np.arange(people), steps)
    gap = 1 + rng.exponential(9 * HOUR, events).astype(np.int64)
    first = np.cumsum(steps) - steps
    gone = np.cumsum(gap)
    opens = rng.integers(0, DURATION // 2, len(held))[city_of] + rng.integers(0, 60 * DAY, people)
    time = START_TIME + opens[person] + gone - gone[first][person]
    return city_of[person], person, time


def _sample_places(
    rng: np.random.Generator, truth: WalkTruth, city: IntArray, person: IntArray, hour: IntArray
) -> npt.NDArray[np.int64]:
    """The item [N] of each step; all people take their first step together, then their second, and so on."""
    first = np.searchsorted(person, np.arange(int(person.max()) + 1))
    turn = np.arange(len(person)) - first[person]
    been = np.full((len(first), REVISIT_WINDOW), -1)
    item = np.empty(len(person), np.int64)
    for step in range(int(turn.max()) + 1):
        rows = np.flatnonzero(turn == step)
        value = truth.utility(city[rows], been[person[rows]], hour[rows])
        taken = np.argmax(value + rng.gumbel(size=value.shape), axis=1) + truth.start[city[rows]]
        been[person[rows]] = np.column_stack([taken, been[person[rows], :-1]])
        item[rows] = taken
    return item
