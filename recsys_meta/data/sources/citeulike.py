"""Articles in people's libraries (citeulike-a; Wang and Blei, 2011), with tags, citations and a published division.

The division says of each row whether it trains, or tests known articles (warm) or articles that no training row has
(cold): it is the context field "part".
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from recsys_meta.core.schema import FeatureField, Schema
from recsys_meta.data.readers.csv_reader import CsvDialect, find_file, read_csv
from recsys_meta.data.readers.raw_tables import RawFeatureTable, RawTables, map_frames

_SCHEMA = Schema(
    name="citeulike-a",
    context=(FeatureField(name="part"),),
    part="part",
    item_features=(
        FeatureField(name="tags", kind="multi", max_values=1000),
        FeatureField(name="cites", kind="multi", max_values=1000),
    ),
    min_query=5,
)


def read_citeulike(folder: Path) -> RawTables:
    """Read interactions.csv and items.csv, maybe compressed. Raises DataError if a file is missing."""
    pairs, articles = find_file(folder, "interactions.csv"), find_file(folder, "items.csv")
    return RawTables(
        schema=_SCHEMA,
        events=read_csv(pairs, ("user", "item", "part"), CsvDialect(",")),
        items=RawFeatureTable(
            "item", map_frames(read_csv(articles, ("item", "tags", "cites"), CsvDialect(",")), _name_cited)
        ),
        origin=(str(pairs), str(articles)),
        expected={"entities": 5_551, "items": 16_980, "events": 204_986},
    )


def _name_cited(frame: pd.DataFrame) -> pd.DataFrame:
    """Name cited articles as the articles themselves: c17 is article 17."""
    cites = frame["cites"].fillna("").astype(str)
    return frame.assign(cites=cites.str.replace(r"(^|\|)c", r"\1", regex=True))
