"""MovieLens in its original files: 100K (u.data), 1M (*.dat, or tidy CSV with rough times), latest (*.csv).

The data belong to GroupLens (Harper and Konstan, 2015, doi:10.1145/2827872); they are downloaded or read from disk and
never part of this project. The objective is "ranking" over all rows, because any rating means that the film was seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from recsys_meta.core.schema import FeatureField, Schema
from recsys_meta.data.readers.csv_reader import CsvDialect, find_file, read_csv
from recsys_meta.data.readers.raw_tables import RawFeatureTable, RawTables, ReadChunks, RowChunk, map_frames

GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
OCCUPATIONS_1M = (
    "other", "academic/educator", "artist", "clerical/admin", "college/grad student", "customer service",
    "doctor/health care", "executive/managerial", "farmer", "homemaker", "K-12 student", "lawyer", "programmer",
    "retired", "sales/marketing", "scientist", "self-employed", "technician/engineer", "tradesman/craftsman",
    "unemployed", "writer",
)  # fmt: skip

# Age groups of MovieLens 1M by their lower ends; the ages in years of 100K are mapped to the same groups.
_AGE_FROM = np.array([0, 18, 25, 35, 45, 50, 56])
_AGE_NAMES = np.array(["under 18", "18-24", "25-34", "35-44", "45-49", "50-55", "56+"])

_USER_FIELDS = (
    FeatureField(name="gender"),
    FeatureField(name="age", column="age_group"),
    FeatureField(name="occupation"),
    FeatureField(name="zip", column="zip_prefix", min_count=5),
)
_FILM_FIELDS = (
    FeatureField(name="genres", kind="multi"),
    FeatureField(name="year", min_count=5),
    FeatureField(name="decade"),
)
_CREDIT_FIELDS = (
    FeatureField(name="director", kind="multi", separator=", ", min_count=2),
    FeatureField(name="actors", kind="multi", separator=", ", min_count=2),
    FeatureField(name="mpaa_rating"),
)


def _schema(
    name: str, user: Sequence[FeatureField], film: Sequence[FeatureField], low: float, exact: bool = True
) -> Schema:
    return Schema(
        name=name,
        kind="user",
        objective="ranking",
        entity="user",
        item="item",
        label="rating",
        label_range=(low, 5),
        time="time",
        exact_time=exact,
        # Users of the latest edition arrived over 22 years, and the films that they watch depend on the year.
        arrival=name == "movielens-latest-small",
        # Users of every edition have 20 ratings or more; see docs/evaluation.md.
        min_query=5,
        entity_features=tuple(user),
        item_features=tuple(film),
    )


def read_movielens_100k(folder: Path) -> RawTables:
    """Read u.data, u.user and u.item of MovieLens 100K. Raises DataError if a file is missing."""
    ratings, users, films = (find_file(folder, n) for n in ("u.data", "u.user", "u.item"))
    flags = [f"is {g}" for g in GENRES_100K]
    film_names = ("item", "title", "released", "video", "url", *flags)
    return RawTables(
        schema=_schema("movielens-100k", _USER_FIELDS, _FILM_FIELDS, 1),
        events=read_csv(ratings, _EVENT_COLUMNS, CsvDialect("\t", _EVENT_COLUMNS, quotes=False)),
        entities=_user_table(users, CsvDialect("|", ("user", "age", "gender", "occupation", "zip"), quotes=False), 1),
        items=RawFeatureTable("item", map_frames(_read_films(films, film_names, "|", flags), _genres_from_flags)),
        title="title",
        origin=_origin(ratings, users, films),
        expected={"entities": 943, "items": 1682, "events": 100_000},
    )


def read_movielens_1m(folder: Path) -> RawTables:
    """Read MovieLens 1M: ratings.dat, users.dat and movies.dat, or ratings.csv.gz, users.csv.gz and items.csv.gz with
    rough times. Raises DataError if a file is missing."""
    if not (folder / "ratings.dat").is_file() and (folder / "ratings.csv.gz").is_file():
        return _read_tidy_1m(folder)
    ratings, users, films = (find_file(folder, f"{n}.dat") for n in ("ratings", "users", "movies"))
    return RawTables(
        schema=_schema("movielens-1m", _USER_FIELDS, _FILM_FIELDS, 1),
        events=read_csv(ratings, _EVENT_COLUMNS, CsvDialect("::", _EVENT_COLUMNS, quotes=False)),
        entities=_user_table(users, CsvDialect("::", ("user", "gender", "age", "occupation", "zip"), quotes=False), 2),
        items=RawFeatureTable(
            "item", map_frames(_read_films(films, ("item", "title", "genres"), "::", ["genres"]), _year_from_title)
        ),
        title="title",
        origin=_origin(ratings, users, films),
        expected=_PUBLISHED_COUNTS_1M,
    )


def _read_tidy_1m(folder: Path) -> RawTables:
    ratings, users, films = (find_file(folder, f"{n}.csv.gz") for n in ("ratings", "users", "items"))
    columns = ("item", "title", "genres", "year", "mpaa_rating", "director", "actors")
    rough = CsvDialect(",", rename=lambda name: "time" if name == "approx_ts" else name)
    return RawTables(
        schema=_schema("movielens-1m", _USER_FIELDS, (*_FILM_FIELDS, *_CREDIT_FIELDS), 1, exact=False),
        events=read_csv(ratings, _EVENT_COLUMNS, rough),
        entities=_user_table(users, CsvDialect(","), 2),
        items=RawFeatureTable("item", map_frames(read_csv(films, columns, CsvDialect(",")), _add_decade)),
        title="title",
        origin=_origin(ratings, users, films),
        expected=_PUBLISHED_COUNTS_1M,
    )


def read_movielens_latest(folder: Path) -> RawTables:
    """Read ratings.csv and movies.csv of the "latest" editions. Raises DataError if a file is missing."""
    ratings, films = find_file(folder, "ratings.csv"), find_file(folder, "movies.csv")
    names = {"userId": "user", "movieId": "item", "timestamp": "time"}
    dialect = CsvDialect(",", rename=lambda name: names.get(name, name))
    return RawTables(
        schema=_schema("movielens-latest-small", (), _FILM_FIELDS, 0.5),
        events=read_csv(ratings, _EVENT_COLUMNS, dialect),
        items=RawFeatureTable(
            "item", map_frames(read_csv(films, ("item", "title", "genres"), dialect), _year_from_title)
        ),
        title="title",
        origin=_origin(ratings, films),
        expected={"entities": 610, "items": 9724, "events": 100_836},
    )


_EVENT_COLUMNS = ("user", "item", "rating", "time")
_PUBLISHED_COUNTS_1M = {"entities": 6040, "items": 3706, "events": 1_000_209}


def _origin(*paths: Path) -> tuple[str, ...]:
    return tuple(str(p) for p in paths)


def _user_table(path: Path, dialect: CsvDialect, digits: int) -> RawFeatureTable:
    columns = ("user", "age", "gender", "occupation", "zip")

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        occupation = frame["occupation"]
        name_of_code = {str(i): name for i, name in enumerate(OCCUPATIONS_1M)}
        return frame.assign(
            age_group=_age_group(frame["age"]),
            zip_prefix=frame["zip"].str.strip().str[:digits],
            occupation=occupation.where(~occupation.isin(name_of_code), occupation.map(name_of_code)),
        )

    return RawFeatureTable("user", map_frames(read_csv(path, columns, dialect), change))


def _age_group(age: pd.Series) -> pd.Series:
    years = pd.to_numeric(age, errors="coerce").fillna(-1).to_numpy(np.float64)
    group = np.searchsorted(_AGE_FROM, years, side="right") - 1
    return pd.Series(np.where(group < 0, "", _AGE_NAMES[group]), index=age.index, dtype="str")


def _read_films(path: Path, names: tuple[str, ...], separator: str, more: list[str]) -> ReadChunks:
    """Return a reader of a films file in Latin-1, as published, or UTF-8, as many copies are."""

    def read(block: int) -> Iterator[RowChunk]:
        dialect = CsvDialect(separator, names, quotes=False, encoding=_detect_encoding(path))
        return read_csv(path, ["item", "title", *more], dialect)(block)

    return read


def _detect_encoding(path: Path) -> str:
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _genres_from_flags(frame: pd.DataFrame) -> pd.DataFrame:
    """Build the genres of 100K, which has a column of 0 or 1 for each genre."""
    genres = pd.Series("", index=frame.index, dtype="str")
    for name in GENRES_100K[1:]:
        genres = genres + np.where(frame[f"is {name}"].str.strip() == "1", f"{name}|", "")
    return _year_from_title(frame.assign(genres=genres))


def _year_from_title(frame: pd.DataFrame) -> pd.DataFrame:
    """Extract the year from the end of the title, as in "Heat (1995)"."""
    year = frame["title"].str.extract(r"\((\d{4})(?:[-\u2013]\d{0,4})?\)\s*$", expand=False).fillna("")
    return _add_decade(frame.assign(year=year))


def _add_decade(frame: pd.DataFrame) -> pd.DataFrame:
    decade = frame["year"].str[:3].where(frame["year"].str.len() == 4, "")
    return frame.assign(
        genres=frame["genres"].replace("(no genres listed)", ""),
        decade=decade.where(decade == "", decade + "0s"),
    )
