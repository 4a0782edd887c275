"""Download of a data set from its publisher, verified and unpacked."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from recsys_meta.core.atomic_io import atomic_directory
from recsys_meta.core.errors import DataError

TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class ZipArchive:
    """Zip file of a publisher: its URL, the members to unpack, and its MD5 if the publisher states one."""

    url: str
    members: tuple[str, ...]
    md5: str | None = None


class _DownloadProgress:
    """Progress bar for pooch, in the form of tqdm: pooch sets `total` and calls the methods."""

    def __init__(self, report: Callable[[float], None]) -> None:
        self.total, self._received, self._report = 0, 0, report

    def update(self, count: int) -> None:
        """Add received bytes."""
        self._received += count
        if self.total:
            self._report(min(self._received / self.total, 1.0))

    def reset(self) -> None:
        """Start again at 0 bytes."""
        self._received = 0

    def close(self) -> None:
        """Do nothing; the method belongs to the interface."""


def download_archive(archive: ZipArchive, folder: Path, report: Callable[[float], None], placement: str) -> Path:
    """Download an archive and unpack its members into `folder`, which is returned.

    `report` is called with the fraction that has been received. Raises DataError if the network fails, the content is
    not what was published, or the disk cannot be written; the message tells the user to download the file and
    `placement`, the imperative that says where to put it.
    """
    # Imported here, because only a download needs it and its import takes longer than all others together.
    import pooch
    from requests import RequestException

    pooch.get_logger().setLevel("WARNING")
    remedy = f"Download it yourself, unpack it, and {placement}"
    scratch = folder.parent / f".{folder.name}.download"
    try:
        path = pooch.retrieve(
            archive.url,
            known_hash=f"md5:{archive.md5}" if archive.md5 else None,
            fname="archive.zip",
            path=scratch,
            downloader=pooch.HTTPDownloader(progressbar=_DownloadProgress(report), timeout=TIMEOUT_SECONDS),
        )
        _unpack_members(Path(path), archive, folder)
    except RequestException as error:
        problem = f"{archive.url} cannot be fetched ({type(error).__name__})"
        raise DataError(problem, remedy=remedy) from None
    except (ValueError, zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{archive.url} is not what was published: {error}", remedy=remedy) from None
    except OSError as error:
        problem = f"{archive.url} cannot be kept in {folder.parent}: {error.strerror or error}"
        raise DataError(problem, remedy=remedy) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _unpack_members(path: Path, archive: ZipArchive, folder: Path) -> None:
    """Unpack the listed members under their last name only, so that no path in the archive leads out of the folder."""
    with zipfile.ZipFile(path) as zip_file, atomic_directory(folder) as temporary:
        for member in archive.members:
            with zip_file.open(member) as source, (temporary / PurePosixPath(member).name).open("wb") as target:
                shutil.copyfileobj(source, target)
