"""Hotels shown in lists, of which one is clicked: the log of the RecSys Challenge 2019 (trivago).

A hotel is the ad, every row one showing of it in a list. Rows say where in the list it stood, at what price, how that
compares with the list, on which device and country site, and how many filters were set. The log knows nothing else
of a hotel, so its city is the one that was searched for when it was first shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from recsys_meta.core.schema import FeatureField, Schema
from recsys_meta.data.readers.cells import Mask, coalesce, parse_numbers
from recsys_meta.data.readers.csv_reader import CsvDialect, find_file, read_csv
from recsys_meta.data.readers.raw_tables import (
    BLOCK_BYTES,
    RawFeatureTable,
    RawTables,
    ReadChunks,
    RowChunk,
    map_chunks,
    merge_chunks,
    read_frame,
)

_SCHEMA = Schema(
    name="trivago-100k",
    kind="ad",
    objective="click",
    entity="hotel",
    item="user",
    group="event",
    label="click",
    label_range=(0, 1),
    time="timestamp",
    context=(
        FeatureField(name="position"),
        FeatureField(name="log_price", kind="numeric"),
        FeatureField(name="price_to_list", kind="numeric"),
        FeatureField(name="price_rank", kind="numeric"),
        FeatureField(name="device"),
        FeatureField(name="platform", min_count=1000),
        FeatureField(name="filters", kind="numeric"),
    ),
    entity_features=(FeatureField(name="city"), FeatureField(name="country", min_count=2)),
    together="city",
    folds=5,
    least_rows=10,
    min_query=5,
)
_LIST_COLUMNS = ("event", "user", "timestamp", "platform", "city", "device", "filters")
_IMPRESSION_COLUMNS = ("event", "item", "position", "price", "click")


def read_trivago(folder: Path) -> RawTables:
    """events.csv.gz (the lists) and impressions.csv.gz (the hotels in them)."""
    lists, showings = find_file(folder, "events.csv"), find_file(folder, "impressions.csv")
    told = _read_lists(read_csv(lists, _LIST_COLUMNS, CsvDialect(",")))
    shown = merge_chunks(read_csv(showings, _IMPRESSION_COLUMNS, CsvDialect(",")))
    return RawTables(
        schema=_SCHEMA,
        events=map_chunks(shown, lambda chunk: _impressions(chunk, told)),
        entities=RawFeatureTable("hotel", _hotels(read_csv(showings, ("event", "item"), CsvDialect(",")), told)),
        duplicates="keep",
        origin=(str(lists), str(showings)),
        expected={"entities": 106_866, "items": 6_593, "events": 312_539},
    )


def _read_lists(read: ReadChunks) -> pd.DataFrame:
    """The lists by event. Those that cannot be read are missed by their rows, which are refused."""
    table = pd.concat([chunk.frame for chunk in read(BLOCK_BYTES)])
    table["filters"] = np.where(table["filters"].str.strip() == "", 0, table["filters"].str.count(r"\|") + 1)
    table["event"] = table["event"].str.strip()
    return table.drop_duplicates("event").set_index("event")


def _impressions(chunk: RowChunk, lists: pd.DataFrame) -> RowChunk:
    """Showings with what their list says, and with their price against the others of the list."""
    frame = chunk.frame
    event = frame["event"].str.strip()
    joined = lists.reindex(event).set_axis(frame.index)
    price, empty = parse_numbers(frame["price"])
    usable = price > 0
    amount = pd.Series(np.where(usable, price, np.nan))
    in_list = amount.groupby(event.to_numpy())
    relative = (amount / in_list.transform("median")).transform(np.log)
    # 0 is the cheapest of its list, 1 the dearest; equal prices share the place between them.
    rank = (in_list.rank() - 1) / (in_list.transform("count") - 1).clip(lower=1)
    made = pd.DataFrame(
        {
            "hotel": frame["item"],
            "event": event,
            "position": frame["position"],
            # A price that is none must be refused with its line: zero has no logarithm.
            "log_price": coalesce(np.log(amount.to_numpy(np.float64)), ~usable, _price_problem(frame["price"], empty)),
            "price_to_list": relative,
            "price_rank": rank,
            "click": frame["click"],
        }
    )
    for name in ("user", "timestamp", "device", "platform", "city"):
        made[name] = joined[name].fillna("")
    made["filters"] = joined["filters"].astype(np.float64)
    return RowChunk(chunk.file, made, chunk.lines, chunk.rejects, chunk.fraction)


def _price_problem(cells: pd.Series, empty: Mask) -> pd.Series:
    return ("the price " + cells.str.strip()).where(~empty, "")


def _hotels(showings: ReadChunks, lists: pd.DataFrame) -> ReadChunks:
    """Each hotel with the city, and its country, of the list that it was first shown in."""

    def read(block: int) -> Iterator[RowChunk]:
        frame = pd.concat([chunk.frame for chunk in showings(block)], ignore_index=True)
        when, city = parse_numbers(lists["timestamp"])[0], lists["city"].str.strip()
        place = lists.index.get_indexer(pd.Index(frame["event"].str.strip()))
        frame, place = frame[place >= 0], place[place >= 0]
        order = np.argsort(when[place], kind="stable")
        first = frame["item"].str.strip().iloc[order].drop_duplicates()
        found = city.iloc[place[order]].set_axis(frame.index[order]).loc[first.index]
        told = pd.DataFrame({"hotel": first, "city": found, "country": found.str.rpartition(",")[2].str.strip()})
        yield from read_frame("the first list of each hotel", told)(block)

    return read
