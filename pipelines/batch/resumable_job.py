"""A resumable batch job: killed at any instant and run again, it goes on where it stopped, and writes the same file.

    OUT's folder/.adapt-OUT/
        job.json      the job: equal jobs write equal files, and another job starts afresh
        spread/       the events, in files that hold entities whole (`entity_partitioning`), and what was odd about them
        made/         the results of each of those files; a file is there whole or not at all

At the end the results are concatenated beside OUT, which they replace in one step.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.batch.entity_partitioning import partition, read_partition
from recsys_meta.core.atomic_io import (
    atomic_directory,
    atomic_file,
    clean_leftovers,
    dump_checksummed,
    load_checksummed,
    write_file,
)
from recsys_meta.core.errors import ConfigError, DataError
from recsys_meta.core.json_text import dump_json

FORMAT = 2
METADATA_KEY = b"recsys-meta"
"""The key of the finished file's metadata that holds its job."""

Job = Mapping[str, str | int]
"""Description of a job: the model's version, the digest of the events, the options."""

Tables = Iterable[pa.Table]


class EventParts(NamedTuple):
    """Files that hold entities whole, with their rows, and warnings about the events by the process that read them."""

    sizes: dict[Path, int]
    warnings: list[str]


@dataclass(frozen=True)
class ResumableJob:
    """The work on one output file. `resumed`: an earlier process had begun it."""

    out: Path
    folder: Path
    job: Job
    resumed: bool

    def parts(
        self,
        tables: Callable[[], Tables],
        rows: int,
        progress: Callable[[int], None],
        warnings: Callable[[], Sequence[str]],
    ) -> EventParts:
        """Write the files that hold entities whole, and `warnings` of the tables once these are read, unless a killed
        job had got so far; return them."""
        target = self.folder / "spread"
        if not target.exists():
            with atomic_directory(target) as beside:
                sizes = partition(tables(), rows, beside, progress)
                text = dump_checksummed({"sizes": sizes, "warnings": list(warnings())})
                (beside / "parts.json").write_text(text, encoding="utf-8")
        content: Any = load_checksummed((target / "parts.json").read_text(encoding="utf-8"))
        return EventParts({target / name: size for name, size in sorted(content["sizes"].items())}, content["warnings"])

    def has_results(self, part: Path) -> bool:
        """Return True where the results of a part are written."""
        return self._results(part).exists()

    def write_results(self, part: Path, schema: pa.Schema, compute: Callable[[pd.DataFrame], Tables]) -> None:
        """Compute and write the results of a part."""
        with atomic_file(self._results(part)) as beside, pq.ParquetWriter(beside, schema) as writer:
            for table in compute(read_partition(part)):
                writer.write_table(table)

    def finish(self, parts: Iterable[Path], schema: pa.Schema) -> int:
        """Concatenate the results as the output; return their number."""
        metadata = {METADATA_KEY: dump_json(dict(self.job), sort_keys=True).encode()}
        total, whole = 0, self.folder / "whole.parquet"
        with atomic_file(whole) as beside, pq.ParquetWriter(beside, schema.with_metadata(metadata)) as writer:
            for part in parts:
                file = pq.ParquetFile(self._results(part))
                for batch in file.iter_batches():
                    writer.write_batch(batch)
                total += file.metadata.num_rows
        whole.replace(self.out)
        return total

    def _results(self, part: Path) -> Path:
        return self.folder / "made" / f"{part.stem}.parquet"


@contextmanager
def open_job(out: Path, job: Job) -> Iterator[ResumableJob]:
    """Open the work on `out`. Its folder stays when it is interrupted or killed, and is removed when the block ends
    well, or in a DataError, which every run would meet again.

    Raises ConfigError where nothing can be written, or another process is at it.
    """
    folder = out.parent / f".adapt-{out.name}"
    _make_folder(out, folder)
    lock = os.open(folder, os.O_RDONLY)
    try:
        _lock(lock, out)
        job = {"format": FORMAT, **job}
        resumes = _is_same_job(folder / "job.json", job)
        if not resumes:
            _clear(folder)
            write_file(folder / "job.json", dump_checksummed(job).encode())
        for directory in (folder, folder / "made"):
            clean_leftovers(directory)
        yield ResumableJob(out, folder, job, resumes)
        _remove(folder)
    except DataError:
        _remove(folder)
        raise
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written: {error.strerror or error}; run it again to go on") from None
    finally:
        os.close(lock)


def _make_folder(out: Path, folder: Path) -> None:
    """Make the folders of an output file, before any work is done. Raises ConfigError where nothing can be written."""
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder; name a Parquet file in it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = "its folder cannot be made" if not out.parent.is_dir() else "its folder cannot be written"
        raise ConfigError(f"--out {out}: {what}: {error.strerror}") from None


def _lock(handle: int, out: Path) -> None:
    """Hold the folder until the process ends, however it ends."""
    import fcntl  # here: where there is none, all other commands shall still run

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"--out {out}: another process is writing it") from None


def _is_same_job(file: Path, job: Job) -> bool:
    try:
        return bool(load_checksummed(file.read_text(encoding="utf-8")) == job)
    except (OSError, ValueError):
        return False


def _remove(folder: Path) -> None:
    _clear(folder)
    folder.rmdir()


def _clear(folder: Path) -> None:
    """Empty the folder; the job's description goes first, so that no later job takes what a kill leaves for its own."""
    (folder / "job.json").unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
