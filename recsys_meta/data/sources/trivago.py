"""Hotels in lists of search results, of which one is clicked: the log of the RecSys Challenge 2019 (trivago).

The entity is the hotel, and every row is one impression of it in a list. The context is its position in the list, its
price, the price relative to the list, the device, the country site, and the number of filters. The log has no other
features of a hotel, so its city is that of the search in which it was first shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from recsys_meta.core.cells import Mask, parse_numbers
from recsys_meta.core.schema import FeatureField, Schema
from recsys_meta.data.readers.cells import coalesce
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
    """Read events.csv.gz (the lists) and impressions.csv.gz (the hotels in them). Raises DataError if a file is
    missing."""
    list_file, impression_file = find_file(folder, "events.csv"), find_file(folder, "impressions.csv")
    lists = _read_lists(read_csv(list_file, _LIST_COLUMNS, CsvDialect(",")))
    hotels = _hotels(read_csv(impression_file, ("event", "item"), CsvDialect(",")), lists)
    impressions = merge_chunks(read_csv(impression_file, _IMPRESSION_COLUMNS, CsvDialect(",")))
    return RawTables(
        schema=_SCHEMA,
        events=map_chunks(impressions, lambda chunk: _impressions(chunk, lists)),
        entities=RawFeatureTable("hotel", hotels),
        duplicates="keep",
        origin=(str(list_file), str(impression_file)),
        expected={"entities": 106_866, "items": 6_593, "events": 312_539},
    )


def _read_lists(read: ReadChunks) -> pd.DataFrame:
    """Read the lists, indexed by event.

    Malformed rows are left out here; the check of the impressions rejects their rows, which lack the cells of the list.
    """
    table = pd.concat([chunk.frame for chunk in read(BLOCK_BYTES)])
    table["filters"] = np.where(table["filters"].str.strip() == "", 0, table["filters"].str.count(r"\|") + 1)
    table["event"] = table["event"].str.strip()
    return table.drop_duplicates("event").set_index("event")


def _impressions(chunk: RowChunk, lists: pd.DataFrame) -> RowChunk:
    """Add to impressions the columns of their list, and their price relative to the list."""
    frame = chunk.frame
    event = frame["event"].str.strip()
    list_columns = lists.reindex(event).set_axis(frame.index)
    price, empty = parse_numbers(frame["price"])
    usable = price > 0
    amount = pd.Series(np.where(usable, price, np.nan))
    in_list = amount.groupby(event.to_numpy())
    relative = (amount / in_list.transform("median")).transform(np.log)
    # 0 for the cheapest of the list, 1 for the most expensive; equal prices have the mean of their ranks.
    rank = (in_list.rank() - 1) / (in_list.transform("count") - 1).clip(lower=1)
    events = pd.DataFrame(
        {
            "hotel": frame["item"],
            "event": event,
            "position": frame["position"],
            # A price that is not positive has no logarithm; as text the check of the rows rejects it with its line.
            "log_price": coalesce(np.log(amount.to_numpy(np.float64)), ~usable, _price_problem(frame["price"], empty)),
            "price_to_list": relative,
            "price_rank": rank,
            "click": frame["click"],
        }
    )
    for name in ("user", "timestamp", "device", "platform", "city"):
        events[name] = list_columns[name].fillna("")
    events["filters"] = list_columns["filters"].astype(np.float64)
    return RowChunk(chunk.file, events, chunk.lines, chunk.rejects, chunk.fraction)


def _price_problem(cells: pd.Series, empty: Mask) -> pd.Series:
    return ("the price " + cells.str.strip()).where(~empty, "")


def _hotels(impressions: ReadChunks, lists: pd.DataFrame) -> ReadChunks:
    """Return a reader of the hotels with the city and the country of the list in which each was first shown."""

    def read(block: int) -> Iterator[RowChunk]:
        frame = pd.concat([chunk.frame for chunk in impressions(block)], ignore_index=True)
        time, city = parse_numbers(lists["timestamp"])[0], lists["city"].str.strip()
        position = lists.index.get_indexer(pd.Index(frame["event"].str.strip()))
        frame, position = frame[position >= 0], position[position >= 0]
        order = np.argsort(time[position], kind="stable")
        hotel = frame["item"].str.strip().iloc[order].drop_duplicates()
        first_city = city.iloc[position[order]].set_axis(frame.index[order]).loc[hotel.index]
        country = first_city.str.rpartition(",")[2].str.strip()
        hotels = pd.DataFrame({"hotel": hotel, "city": first_city, "country": country})
        yield from read_frame("the first list of each hotel", hotels)(block)

    return read
