"""Columns as .npy files, written without knowing the number of rows in advance and read by memory map."""

from __future__ import annotations

import io
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from recsys_meta.core.errors import DataError

Array = npt.NDArray[Any]


class ColumnWriter:
    """Writer of a one-dimensional .npy file, a context manager; the row count in the header is written on exit."""

    def __init__(self, path: Path, dtype: str) -> None:
        self._dtype, self._rows = np.dtype(dtype), 0
        self._file = path.open("wb")
        self._file.write(self._header())

    def _header(self) -> bytes:
        buffer = io.BytesIO()
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._rows,)}
        # NumPy pads the header so that the first axis may grow without moving the data.
        np.lib.format.write_array_header_1_0(buffer, header)
        return buffer.getvalue()

    def add(self, values: Array) -> None:
        """Append values [n]."""
        self._file.write(np.ascontiguousarray(values, self._dtype).data)
        self._rows += len(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        with self._file:
            self._file.seek(0)
            self._file.write(self._header())


def write_column(path: Path, values: Array) -> None:
    """Write one array as an .npy file. Raises OSError as the file system does."""
    np.save(path, values, allow_pickle=False)


def read_column(path: Path) -> Array:
    """Memory-map the array of an .npy file. Raises DataError if the file is damaged."""
    try:
        # An empty array cannot be mapped, and a header alone has 128 bytes.
        empty = path.stat().st_size <= 128
        array: Array = np.load(path, mmap_mode=None if empty else "r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"the file is damaged: {error}", file=path, remedy="Prepare the data set again") from None
    return array
