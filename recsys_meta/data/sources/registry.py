"""Registry of data sets by name: their origin, terms of use and readers. Beside those of this project stand the entry
points `recsys_meta.datasets` of other packages, each a `DataSource`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError, DataError
from recsys_meta.core.plugin_registry import PluginRegistry
from recsys_meta.core.schema import Objective, Schema, explain_errors
from recsys_meta.data.build.prepare import prepare
from recsys_meta.data.readers.raw_tables import BLOCK_BYTES, OnError, ProgressCallback, RawTables
from recsys_meta.data.simulators.ads import simulate_ads
from recsys_meta.data.simulators.cities import simulate_cities
from recsys_meta.data.simulators.latent_factors import SimulatedDataset
from recsys_meta.data.simulators.users import simulate_users
from recsys_meta.data.sources.citeulike import read_citeulike
from recsys_meta.data.sources.download import ZipArchive, download_archive
from recsys_meta.data.sources.foursquare import read_foursquare
from recsys_meta.data.sources.frappe import read_frappe
from recsys_meta.data.sources.movielens import read_movielens_1m, read_movielens_100k, read_movielens_latest
from recsys_meta.data.sources.movielens_ads import read_movielens_1m_ads, read_movielens_1m_ads_forward
from recsys_meta.data.sources.trivago import read_trivago

_GROUPLENS = (
    "GroupLens licence: research use with acknowledgement (Harper and Konstan, 2015); no redistribution without "
    "permission; no commercial use without permission"
)
_NOT_SHIPPED = "Nobody is licensed to pass the files on, so they are not fetched; docs/data.md lists their columns"
_FREE = "made by this project, free of any terms"

_PLAIN_NAME = re.compile(r"(?=.*[^.])[A-Za-z0-9_.-]+")

DOWNLOADS_FOLDER = "downloads"
"""Name of the directory beside the prepared data sets that holds downloaded files."""


@dataclass(frozen=True)
class DataSource:
    """Data set by name.

    `folder_names` are the names that its directory may have under a data root, `marker_files` the files of which one
    must be in it. `load` reads the raw files of a directory; a simulated data set has `simulate` instead, a function of
    the seed. `archive` is what can be downloaded; `manual_download` says what to do where that is not allowed.
    """

    title: str
    terms: str
    url: str = ""
    manual_download: str = ""
    folder_names: tuple[str, ...] = ()
    marker_files: tuple[str, ...] = ()
    load: Callable[[Path], RawTables] | None = None
    simulate: Callable[[int], SimulatedDataset[Any]] | None = None
    archive: ZipArchive | None = None


def _grouplens_archive(name: str, files: tuple[str, ...], md5: str | None = None) -> ZipArchive:
    members = tuple(f"{name}/{file}" for file in files)
    return ZipArchive(f"https://files.grouplens.org/datasets/movielens/{name}.zip", members, md5)


_FOLDERS_1M = ("ml-1m", "movielens-1m", "1m")
_MARKS_1M = ("ratings.dat", "ratings.dat.gz", "ratings.csv.gz")
_ARCHIVE_1M = _grouplens_archive(
    "ml-1m", ("ratings.dat", "users.dat", "movies.dat", "README"), "c4d9eecfca2ab87c1945afe126590906"
)


def _ads_source(order: str, load: Callable[[Path], RawTables]) -> DataSource:
    """Build the source of MovieLens 1M as advertisements, which has the files of movielens-1m."""
    return DataSource(
        title=f"MovieLens 1M as a log of ads: a film is an ad, a rating of 4 or more a click; {order}",
        terms=_GROUPLENS,
        url="https://grouplens.org/datasets/movielens/1m/",
        folder_names=_FOLDERS_1M,
        marker_files=_MARKS_1M,
        load=load,
        archive=_ARCHIVE_1M,
    )


def _unshipped_source(name: str, *, title: str, terms: str, file: str, load: Callable[[Path], RawTables]) -> DataSource:
    """Build the source of a data set that is not downloaded: a file, maybe compressed, in a directory of its name."""
    return DataSource(
        title=title,
        terms=terms,
        manual_download=_NOT_SHIPPED,
        folder_names=(name,),
        marker_files=(f"{file}.gz", file),
        load=load,
    )


_BUILTIN: dict[str, DataSource] = {
    "movielens-100k": DataSource(
        title="100,000 film ratings of 943 users with age, gender and occupation",
        terms=_GROUPLENS,
        url="https://grouplens.org/datasets/movielens/100k/",
        folder_names=("ml-100k", "movielens-100k", "100k"),
        marker_files=("u.data", "u.data.gz"),
        load=read_movielens_100k,
        archive=_grouplens_archive(
            "ml-100k", ("u.data", "u.user", "u.item", "README"), "0e33842e24a9c977be4e0107933c0723"
        ),
    ),
    "movielens-1m": DataSource(
        title="1,000,209 film ratings of 6,040 users with age, gender and occupation",
        terms=_GROUPLENS,
        url="https://grouplens.org/datasets/movielens/1m/",
        folder_names=_FOLDERS_1M,
        marker_files=_MARKS_1M,
        load=read_movielens_1m,
        archive=_ARCHIVE_1M,
    ),
    "movielens-latest-small": DataSource(
        title="100,836 film ratings of 610 users, in half stars, 1996 to 2018",
        terms=_GROUPLENS,
        url="https://grouplens.org/datasets/movielens/latest/",
        folder_names=("ml-latest-small", "movielens-latest-small", "latest-small"),
        marker_files=("ratings.csv", "ratings.csv.gz"),
        load=read_movielens_latest,
        archive=_grouplens_archive("ml-latest-small", ("ratings.csv", "movies.csv", "README.txt")),
    ),
    "movielens-1m-ads": _ads_source("in the published order, which runs back in time", read_movielens_1m_ads),
    "movielens-1m-ads-forward": _ads_source("in the order of time", read_movielens_1m_ads_forward),
    "trivago-100k": _unshipped_source(
        "trivago-100k",
        title="312,539 showings of 106,866 hotels in lists with prices and positions, 2 days of 2018",
        terms="released by trivago for the RecSys Challenge 2019: research; no open licence is known",
        file="impressions.csv",
        load=read_trivago,
    ),
    "frappe": _unshipped_source(
        "frappe",
        title="96,203 usages of 4,082 phone apps by 957 users in context, each with two sampled negatives",
        terms="research use with citation of Baltrunas et al. (2015, arXiv:1505.03014); no redistribution without "
        "permission, no commercial use, no attempt to identify people",
        file="interactions.csv",
        load=read_frappe,
    ),
    "foursquare-us": _unshipped_source(
        "foursquare-us",
        title="check-ins at places of 41 cities with coordinates, 2012 and 2013",
        terms="research use with citation of Liu et al. (2017) and Yang et al.",
        file="checkins.csv",
        load=read_foursquare,
    ),
    "citeulike-a": _unshipped_source(
        "citeulike-a",
        title="204,986 articles in the libraries of 5,551 people, with tags, citations and a published division",
        terms="no licence came with it: research with citation of Wang and Blei (2011)",
        file="interactions.csv",
        load=read_citeulike,
    ),
    "simulated-users": DataSource(
        title="simulated users who watch and rate films; the truth is known",
        terms=_FREE,
        simulate=lambda seed: simulate_users(seed=seed),
    ),
    "simulated-ads": DataSource(
        title="simulated ads shown to users who click or do not; the truth is known",
        terms=_FREE,
        simulate=lambda seed: simulate_ads(seed=seed),
    ),
    "simulated-cities": DataSource(
        title="simulated cities whose people visit places; the truth is known",
        terms=_FREE,
        simulate=lambda seed: simulate_cities(seed=seed),
    ),
}


def _find_fault(name: str, entry: Any) -> str | None:
    """Fault of what a package registers as a data set; None without one."""
    if not isinstance(entry, DataSource):
        return "it is no recsys_meta.data.DataSource"
    if (entry.load is None) == (entry.simulate is None):
        return "a DataSource has either load or simulate"
    if entry.load is not None and not (entry.folder_names and entry.marker_files):
        return "a DataSource with load has folder_names and marker_files, by which its raw files are found"
    if not _PLAIN_NAME.fullmatch(name):
        return "its name becomes a folder's: letters, digits, '_', '.' and '-' only, not dots alone"
    return None


SOURCES: PluginRegistry[DataSource] = PluginRegistry("recsys_meta.datasets", "data set", _BUILTIN, _find_fault)


def _get_source(name: str) -> DataSource:
    if name not in SOURCES:
        raise ConfigError(f"no data set '{name}'; there are {', '.join(SOURCES)}. Your own needs a TOML schema")
    return SOURCES[name]


def locate(name: str, source: Path | None, data_root: Path | None) -> Path | None:
    """Return the directory of the raw files of a data set: `source` or a folder in it, else a folder in `data_root`.

    None where there is no such directory, or where the data set is simulated. Raises ConfigError for an unknown name,
    or a `source` for a simulated data set, and DataError if `source` does not hold the data set.
    """
    data_source = _get_source(name)
    if source is not None:
        if data_source.load is None:
            raise ConfigError(f"'{name}' is simulated and reads no files")
        if not source.is_dir():
            remedy = f"Give the directory with {data_source.marker_files[0]}"
            raise DataError("no such directory", file=source, remedy=remedy)
        if (folder := _find_folder(source, data_source)) is None:
            markers = " or ".join(data_source.marker_files)
            raise DataError(f"does not hold {name}", file=source, remedy=f"A file {markers} is expected there")
        return folder
    return None if data_root is None else _find_folder(data_root, data_source, itself=False)


def _find_folder(root: Path, data_source: DataSource, itself: bool = True) -> Path | None:
    """Return the directory under `root`, or `root` itself, that holds a marker file of the data set."""
    for folder in ([root] if itself else []) + [root / name for name in data_source.folder_names]:
        if any((folder / marker).is_file() for marker in data_source.marker_files):
            return folder
    return None


def prepare_named(
    name: str,
    out: Path | str,
    source: Path | None = None,
    data_root: Path | None = None,
    on_error: OnError = "fail",
    progress: ProgressCallback | None = None,
    *,
    objective: Objective | None = None,
    positive: float | None = None,
    seed: int = 0,
    download: bool = True,
    downloads: Path | None = None,
    block: int = BLOCK_BYTES,
) -> Dataset:
    """Prepare a built-in data set in the directory `out` and open it.

    Raw files are taken from `source`, from `data_root` or from earlier downloads, and else downloaded into `downloads`
    (by default a folder beside `out`) unless `download` is False. `objective` and `positive` override the schema;
    `seed` is that of a simulator. `on_error`, `progress` and `block` are those of `prepare`. Raises ConfigError for an
    unknown name or options that do not go together, and DataError for missing or wrong data.
    """
    data_source, out = _get_source(name), Path(out)
    report = progress or (lambda stage, fraction: None)
    if data_source.simulate is not None:
        locate(name, source, None)  # refuses a `source`
        tables, seed_entry = data_source.simulate(seed).tables, {"seed": seed}
    else:
        downloads = downloads or out.parent / DOWNLOADS_FOLDER
        folder = _obtain_folder(name, source, data_root, downloads, report if download else None)
        assert data_source.load is not None
        tables, seed_entry = data_source.load(folder), {}
    tables = override_schema(tables, objective, positive)
    origin = {"title": data_source.title, "terms": data_source.terms, "url": data_source.url}
    return prepare(tables, out, on_error, progress, {"name": name, **origin, **seed_entry}, block)


def _obtain_folder(
    name: str, source: Path | None, data_root: Path | None, downloads: Path, report: ProgressCallback | None
) -> Path:
    """Return the directory of the raw files, downloading them if necessary and `report` is not None."""
    data_source = SOURCES[name]
    folder = locate(name, source, data_root) or _find_folder(downloads, data_source, itself=False)
    if folder is not None:
        return folder
    folder_name = data_source.folder_names[0]
    placement = f"name its directory with --source, or put it as {folder_name} under RECSYS_META_DATA"
    if report is None or data_source.archive is None:
        roots = " or ".join(str(p) for p in (data_root, downloads) if p)
        manual = f"Download it from {data_source.url}, unpack it, and {placement}"
        remedy = manual if data_source.url else f"{data_source.manual_download}; {placement}"
        raise DataError(f"{name} was not found under {roots}", remedy=remedy)
    return download_archive(
        data_source.archive, downloads / folder_name, lambda fraction: report("downloading", fraction), placement
    )


def override_schema(tables: RawTables, objective: Objective | None, positive: float | None) -> RawTables:
    """Replace the objective and the threshold of positives in the schema of raw tables, where they are not None.

    Raises ConfigError if the result is not a valid schema.
    """
    change = {k: v for k, v in {"objective": objective, "positive": positive}.items() if v is not None}
    try:
        schema = Schema.model_validate({**tables.schema.model_dump(), **change})
    except ValidationError as error:
        raise ConfigError(explain_errors(error)) from None
    return replace(tables, schema=schema)
