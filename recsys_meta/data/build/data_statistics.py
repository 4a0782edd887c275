"""What the rows of a data set were found to hold, bucket by bucket: their hash and what is worth a warning."""

from __future__ import annotations

import hashlib

import numpy as np

from recsys_meta.core.dataset import NO_TIME
from recsys_meta.core.schema import Schema
from recsys_meta.data.build.external_sort import SortedBucket


class DataStatistics:
    """Counts of the rows that are kept; the hash of each column does not depend on the order of the file."""

    def __init__(self, schema: Schema, columns: tuple[str, ...], groups: int) -> None:
        self._schema = schema
        self._hashes = {name: hashlib.sha256() for name in columns}
        self._seen, self._taken = np.zeros(groups, bool), np.zeros(groups, bool)
        self.unknown_times = 0

    def add(self, part: SortedBucket) -> None:
        """Take the rows of one bucket."""
        for name, known in self._hashes.items():
            known.update(np.ascontiguousarray(part.rows[name][part.canonical]).data)
        if self._schema.time is not None:
            self.unknown_times += int((part.rows["time"] == NO_TIME).sum())
        if self._schema.group is not None:
            self._seen[part.rows["group"]] = True
            self._taken[part.rows["group"][part.rows["label"] > 0]] = True

    @property
    def digests(self) -> dict[str, str]:
        """The hash of each column."""
        return {name: known.hexdigest() for name, known in self._hashes.items()}

    @property
    def warnings(self) -> list[str]:
        """What is allowed but should be known."""
        none = int((self._seen & ~self._taken).sum())
        if self._schema.objective != "click" or not none:
            return []
        return [f"{none:,} of {int(self._seen.sum()):,} groups of '{self._schema.group}' have no click"]
