"""The key that signs the cursors of lists, alike in every process of one database."""

from __future__ import annotations

import secrets
from pathlib import Path

from recsys_meta.core.atomic_io import atomic_file, dump_checksummed, load_checksummed


class CursorKey:
    """The key, as the database last gave it; a random one until then, unless `file` holds that of an earlier process.

    The file is readable by its owner alone, and the installation's key does not follow from what it holds.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file, self.value = file, secrets.token_bytes(32)
        self._saved: bytes | None = None

    def replace(self, value: bytes) -> None:
        """Take the key that the database gave, and write it to the file where it is another. Raises OSError."""
        self.value = value
        if self._file is None or value == self._saved:
            return
        with atomic_file(self._file) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_text(dump_checksummed({"key": value.hex()}), encoding="utf-8")
        self._saved = value

    def restore(self) -> None:
        """Read the file; a damaged one counts as none."""
        if self._file is None:
            return
        try:
            self.value = self._saved = bytes.fromhex(load_checksummed(self._file.read_text(encoding="utf-8"))["key"])
        except (OSError, ValueError, KeyError, TypeError):
            return
