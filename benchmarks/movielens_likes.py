"""MovieLens-1M as likes only (protocol U5): ratings of 4 or more of films up to 1997, one query for every support.

    python -m benchmarks.movielens_likes MOVIELENS_FOLDER var/data/movielens-1m-likes
    recsys-meta compare --dataset var/data/movielens-1m-likes --shots 1,3,5,10 --seeds 3 --json FILE

The first ten likes of a user, in random order, are what supports are cut from, all later ones the query: the same for
every number of shots. Users with fewer than 20 such likes train, but are not evaluated. Ratings below 4 are left out,
so that nothing is known but likes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from recsys_meta.core.cells import parse_numbers
from recsys_meta.data.build.prepare import prepare
from recsys_meta.data.readers.raw_tables import BLOCK_BYTES, RawTables, map_chunks, select_rows
from recsys_meta.data.sources.movielens import read_movielens_1m

LEAST_RATING, LAST_YEAR = 4, 1997
MOST_SHOTS, FEWEST = 10, 20
"""Most likes of a support, and the likes of a user who is evaluated."""


def read_likes(folder: Path) -> RawTables:
    """Read MovieLens-1M and keep the likes of films up to LAST_YEAR; a film without a year is kept."""
    tables = read_movielens_1m(folder)
    assert tables.items is not None
    films = pd.concat([chunk.frame for chunk in tables.items.read(BLOCK_BYTES)])
    year, _ = parse_numbers(films["year"])
    later = set(films["item"][year > LAST_YEAR])

    def is_kept(frame: pd.DataFrame) -> np.ndarray:
        rating, _ = parse_numbers(frame["rating"])
        kept: np.ndarray = (rating >= LEAST_RATING) & ~frame["item"].isin(later).to_numpy()
        return kept

    changes = {
        "name": "movielens-1m-likes",
        "shots": (0, 1, 3, 5, MOST_SHOTS),
        "query_from": MOST_SHOTS,
        "min_query": FEWEST - MOST_SHOTS,
    }
    events = map_chunks(tables.events, lambda chunk: select_rows(chunk, is_kept(chunk.frame)))
    return replace(tables, schema=tables.schema.model_copy(update=changes), events=events, expected={})


def main() -> None:
    """Prepare the likes in a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with MovieLens-1M, as published or tidied")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    data = prepare(read_likes(args.source), args.out)
    films = len(np.unique(data.events.item))
    print(f"{args.out}: {len(data.events):,} likes of {films:,} films by {data.events.entity_count:,} users")


if __name__ == "__main__":
    main()
