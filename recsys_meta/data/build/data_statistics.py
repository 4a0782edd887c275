"""Statistics of the rows of a data set, gathered bucket by bucket: hashes of the columns and warnings."""

from __future__ import annotations

import hashlib

import numpy as np

from recsys_meta.core.arrays import IntArray
from recsys_meta.core.dataset import NO_TIME
from recsys_meta.core.schema import Schema
from recsys_meta.data.build.external_sort import SortedBucket


class DataStatistics:
    """Hashes and counts of the rows that are written; the hashes do not depend on the order of the file.

    unknown_times: number of rows without a time; time_range: the first and the last time in seconds, None without any.
    """

    def __init__(self, schema: Schema, columns: tuple[str, ...], groups: int) -> None:
        self._schema = schema
        self._hashes = {name: hashlib.sha256() for name in columns}
        self._group_has_rows, self._group_has_click = np.zeros(groups, bool), np.zeros(groups, bool)
        self.unknown_times = 0
        self.time_range: tuple[int, int] | None = None

    def add(self, bucket: SortedBucket) -> None:
        """Add the rows of one bucket."""
        for name, digest in self._hashes.items():
            digest.update(np.ascontiguousarray(bucket.rows[name][bucket.canonical]).data)
        if self._schema.time is not None:
            self._add_times(bucket.rows["time"])
        if self._schema.group is not None:
            self._group_has_rows[bucket.rows["group"]] = True
            self._group_has_click[bucket.rows["group"][bucket.rows["label"] > 0]] = True

    def _add_times(self, time: IntArray) -> None:
        known = time[time != NO_TIME]
        self.unknown_times += len(time) - len(known)
        if len(known):
            first, last = self.time_range or (known[0], known[0])
            self.time_range = min(int(first), int(known.min())), max(int(last), int(known.max()))

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each column in hexadecimal: name -> hash."""
        return {name: digest.hexdigest() for name, digest in self._hashes.items()}

    @property
    def warnings(self) -> list[str]:
        """Warnings about rows that are valid but unusual, each a sentence."""
        without_click = int((self._group_has_rows & ~self._group_has_click).sum())
        if self._schema.objective != "click" or not without_click:
            return []
        groups = int(self._group_has_rows.sum())
        return [f"{without_click:,} of {groups:,} groups of '{self._schema.group}' have no click"]
