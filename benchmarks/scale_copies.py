"""A larger log out of a prepared one: copies of its users and items side by side, each with names of its own.

    python -m benchmarks.scale_copies DATA FOLDER --copies 10

writes the prepared folder FOLDER with the events of `benchmarks.scale_data` that DATA has, so many times over; no user
has met items of another copy. What a step of training costs and how much memory it takes can so be measured with
100 million events without making and preparing as many.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from recsys_meta.core.arrays import FIRST, IntArray
from recsys_meta.core.atomic_io import dump_checksummed, load_checksummed, sha256
from recsys_meta.core.dataset import FeatureColumn
from recsys_meta.data import open_dataset
from recsys_meta.data.build.npy_columns import ColumnWriter, write_column
from recsys_meta.data.build.prepared_dataset import vocabulary_frame


def copy_side_by_side(source: Path, folder: Path, copies: int) -> Path:
    """Write a prepared folder with `copies` copies of the one at `source`, and return it."""
    data, reserved = open_dataset(source), {"entity": 0, "item": FIRST}
    folder.mkdir(parents=True)
    events, own = data.events, data.catalogue - FIRST
    with ColumnWriter(folder / "events.item.npy", "int32") as item:
        for copy in range(copies):
            item.add(np.where(events.item >= FIRST, events.item + copy * own, events.item))
    for name, values in (("label", events.label), ("time", events.time)):
        if values is not None:
            with ColumnWriter(folder / f"events.{name}.npy", values.dtype.str) as column:
                for _ in range(copies):
                    column.add(values)
    write_column(folder / "events.indptr.npy", _tiled_indptr(events.indptr, 0, copies))
    for table, columns in (("entity", data.entities), ("item", data.items)):
        for name, feature in columns.items():
            _write_feature(folder / f"{table}.{name}", feature, reserved[table], copies)
    spaces = dict(data.vocab.values)
    for space in ("entity", "item"):
        spaces[space] = pd.Index(
            np.concatenate([f"{copy}-" + spaces[space].astype("object") for copy in range(copies)])
        )
    vocabulary_frame(spaces).to_parquet(folder / "vocab.parquet", index=False)
    description = load_checksummed((source / "dataset.json").read_text(encoding="utf-8"))
    description["digest"] = f"{description['digest']}-{copies}"
    description["files"] = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(folder.iterdir())
    }
    description.pop("seal", None)
    (folder / "dataset.json").write_text(dump_checksummed(description), encoding="utf-8")
    return folder


def _write_feature(path: Path, feature: FeatureColumn, reserved: int, copies: int) -> None:
    """Write a column [n] whose first `reserved` rows are not copied."""
    start = reserved if feature.indptr is None else int(feature.indptr[reserved])
    values = [feature.values[:start], *[feature.values[start:]] * copies]
    write_column(path.with_name(f"{path.name}.values.npy"), np.concatenate(values))
    if feature.indptr is not None:
        indptr = _tiled_indptr(feature.indptr, reserved, copies)
        write_column(path.with_name(f"{path.name}.indptr.npy"), indptr)


def _tiled_indptr(indptr: IntArray, reserved: int, copies: int) -> IntArray:
    """Offsets of rows of which all but the first `reserved` are there `copies` times."""
    sizes = np.diff(indptr)
    every = np.concatenate([sizes[:reserved], *[sizes[reserved:]] * copies])
    tiled: IntArray = np.concatenate([[0], np.cumsum(every)]).astype(indptr.dtype)
    return tiled


def main() -> None:
    """Write the copies and print their folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--copies", type=int, default=10)
    given = parser.parse_args()
    print(copy_side_by_side(given.data, given.folder, given.copies))


if __name__ == "__main__":
    main()
