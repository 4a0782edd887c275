"""Bytes of a file, whatever it is packed in: its content says how. Members of zip files have paths too.

Texts in encodings whose letters are wider than ASCII's become UTF-8 here, so that lines are lines to all readers.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from recsys_meta.core.errors import ConfigError, DataError

_GZIP, _BZIP2, _XZ, _ZIP = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"PK\x03\x04"
_EMPTY_ZIP = b"PK\x05\x06"
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_PACKED = (_GZIP, _BZIP2, _XZ, _ZIP, _ZSTANDARD)
_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
_MARKS |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_ZEROS = {"utf-32-be": b"\0\0\0.", "utf-32-le": b".\0\0\0", "utf-16-be": b"\0.\0.", "utf-16-le": b".\0.\0"}
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, zipfile.BadZipFile)
PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zip")
"""Endings of packed files, behind which the ending of their content stands."""


def read_bytes(path: Path, size: int) -> Iterator[tuple[bytes, float]]:
    """Yield the unpacked content of a file in blocks of about `size` bytes, with the fraction that has been read.

    gzip, bzip2, xz, zstd and zip are unpacked; a zip file must hold one file, or the path goes on with the name of one
    ("ml-1m.zip/ml-1m/ratings.dat"). Raises DataError for a file that is missing, damaged or cannot be read.
    """
    file_path, member = split_member(path)
    try:
        total, first = max(file_path.stat().st_size, 1), True
        with file_path.open("rb") as file, _unpack(path, member, file) as stream:
            while raw := stream.read(size):
                if first and stream is not file and raw.startswith(_PACKED):
                    raise DataError("is packed twice", file=path, remedy="Unpack it once")
                first = False
                yield raw, min(file.tell() / total, 1.0)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError("no such file", file=path, remedy="Check the path") from None
    except IsADirectoryError:
        raise DataError("is a folder", file=path, remedy="Name a file in it") from None
    except _DAMAGED as error:
        problem = f"the compressed file is cut short or damaged ({error})"
        raise DataError(problem, file=path, remedy="Fetch or compress it again") from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {getattr(error, 'strerror', None) or error}", file=path) from None


def read_text(path: Path, size: int, encoding: str) -> Iterator[tuple[bytes, float]]:
    """Yield the content of a text without its mark, with the fraction that has been read: as UTF-8 where the encoding
    is unlike ASCII, else as it is.

    Raises DataError as `read_bytes`, for what is not in this encoding and for letters wider than it says; ConfigError
    for an encoding that demands a mark where there is none.
    """
    first, decoder = True, None if is_ascii_compatible(encoding) else codecs.getincrementaldecoder(encoding)()
    for part, fraction in read_bytes(path, max(size, 4)):
        if first:
            _check_width(path, part, encoding)
        raw, first = part.removeprefix(codecs.BOM_UTF8) if first else part, False
        try:
            yield raw if decoder is None else decoder.decode(raw).removeprefix("\ufeff").encode(), fraction
        except UnicodeError:
            raise DataError(f"is not valid {encoding}", file=path, remedy="Correct the encoding") from None


def _check_width(path: Path, head: bytes, encoding: str) -> None:
    wide = wide_encoding(head)
    if wide is not None and is_ascii_compatible(encoding):
        remedy = f'Give encoding = "{wide}" under [files], or save it as UTF-8'
        raise DataError(f"is {wide[:6].upper()}", file=path, line=1, remedy=remedy)
    if codecs.lookup(encoding).name in ("utf-16", "utf-32") and not head.startswith(tuple(_MARKS)):
        raise ConfigError(f"[files] encoding '{encoding}': {path} does not begin with the mark of {encoding.upper()}")


def wide_encoding(head: bytes) -> str | None:
    """Return the encoding of a text whose first bytes say that its letters are of two or four bytes, by its mark or by
    zeros; None for others."""
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    zeros = bytes(0 if byte == 0 else ord(".") for byte in head[:4])
    return next((encoding for encoding, pattern in _ZEROS.items() if zeros == pattern), None)


def split_member(path: Path) -> tuple[Path, str | None]:
    """Split the path of a file within a zip file into the path of that and the name of its member; None without one."""
    if path.exists():
        return path, None
    for parent in path.parents:
        if parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    return path, None


def require_file(path: Path) -> None:
    """Raise DataError where there is no such file, nor one that it may be a member of."""
    file = split_member(path)[0]
    if not file.is_file():
        problem = "it is a folder, not a file" if file.is_dir() else "no such file"
        raise DataError(problem, file=path, remedy="Check the path")


def content_suffix(path: Path) -> str:
    """Return the ending of a file's name in small letters, without that of its packing: ".json" for reviews.json.gz."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in PACKED_SUFFIXES else suffix


def first_bytes(path: Path, size: int = 2**16) -> bytes:
    """Return up to `size` bytes from the start of the unpacked content. Raises DataError as `read_bytes`."""
    return next(read_bytes(path, size), (b"", 1.0))[0]


def detect_encoding(path: Path) -> str:
    """Return the encoding of a text file by its bytes: that of `wide_encoding`, "utf-8" where all of it is UTF-8, else
    "cp1252", or "latin-1" where that lacks a byte of it. Raises DataError as `read_bytes`."""
    if (wide := wide_encoding(first_bytes(path, 4))) is not None:
        return wide
    for encoding in ("utf-8", "cp1252"):
        decoder = codecs.getincrementaldecoder(encoding)()
        try:
            for raw, _ in read_bytes(path, 2**20):
                decoder.decode(raw)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            continue
        return encoding
    return "latin-1"


def is_ascii_compatible(encoding: str) -> bool:
    """Return True where line feeds and separators are single bytes as in ASCII. Raises LookupError for no encoding."""
    try:
        return "\n,".encode(encoding) == b"\n,"
    except (UnicodeError, ValueError):
        raise LookupError(encoding) from None


@contextmanager
def _unpack(path: Path, member: str | None, file: IO[bytes]) -> Iterator[IO[bytes]]:
    head = file.read(6)
    file.seek(0)
    if member is not None and not head.startswith(_ZIP):
        raise DataError("no such file", file=path, remedy="Check the path: what stands before it is no zip file")
    if head.startswith((_ZIP, _EMPTY_ZIP)):
        with zipfile.ZipFile(file) as archive, archive.open(_member(path, archive, member)) as stream:
            yield stream
    elif head.startswith(_GZIP) or path.suffix == ".gz":
        yield cast(IO[bytes], gzip.GzipFile(fileobj=file))
    elif head.startswith(_BZIP2):
        yield cast(IO[bytes], bz2.BZ2File(file))
    elif head.startswith(_XZ):
        yield cast(IO[bytes], lzma.LZMAFile(file))  # noqa: SIM115 the file is closed by who opened it
    elif head.startswith(_ZSTANDARD):
        stream_of_arrow: Any = pa.CompressedInputStream(pa.PythonFile(file), "zstd")
        yield stream_of_arrow
    else:
        yield file


def _member(path: Path, archive: zipfile.ZipFile, member: str | None) -> zipfile.ZipInfo:
    files = [i for i in archive.infolist() if not i.is_dir() and not i.filename.startswith("__MACOSX/")]
    if member is not None:
        files = [i for i in files if i.filename == member]
    if member is None and any(i.filename == "[Content_Types].xml" for i in files):
        raise DataError("is an Office document", file=path, remedy="Export the table as CSV")
    if not files and member is None:
        raise DataError("the zip file holds no file", file=path, remedy="Pack it again")
    if len(files) != 1:
        names = ", ".join(i.filename for i in archive.infolist()[:20] if not i.is_dir())
        problem = "the zip file holds no such file" if member is not None else f"the zip file holds {len(files)} files"
        raise DataError(problem, file=path, remedy=f"Name one behind the file, as {path.name}/NAME; there are: {names}")
    if files[0].flag_bits & 1:
        raise DataError("the zip file is encrypted", file=path, remedy="Unpack it")
    return files[0]
