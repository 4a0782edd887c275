"""Fetching a data set from its publisher: checked, shown as it comes, and kept for the next time."""

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
    """A zip file at a publisher. Without `md5` the counts of the data are compared after loading instead."""

    url: str
    members: tuple[str, ...]
    md5: str | None = None


class _DownloadProgress:
    """What pooch reports the bytes to."""

    def __init__(self, show: Callable[[float], None]) -> None:
        self.total, self._seen, self._show = 0, 0, show

    def update(self, count: int) -> None:
        self._seen += count
        if self.total:
            self._show(min(self._seen / self.total, 1.0))

    def reset(self) -> None:
        self._seen = 0

    def close(self) -> None:
        pass


def download_archive(archive: ZipArchive, folder: Path, show: Callable[[float], None], where: str) -> Path:
    """Download an archive and unpack its members into `folder`.

    Raises DataError, which says `where` the files may be put by hand, when there is no network, the content
    is not what was published, or the disk refuses.
    """
    # Imported here: only a download needs it, and it takes as long to import as all else together.
    import pooch
    from requests import RequestException

    pooch.get_logger().setLevel("WARNING")
    remedy = f"Download it yourself, unpack it, and {where}"
    scratch = folder.parent / f".{folder.name}.download"
    try:
        path = pooch.retrieve(
            archive.url,
            known_hash=f"md5:{archive.md5}" if archive.md5 else None,
            fname="archive.zip",
            path=scratch,
            downloader=pooch.HTTPDownloader(progressbar=_DownloadProgress(show), timeout=TIMEOUT_SECONDS),
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
    """Only the members that are wanted, by their last name: no path of the archive is ever followed."""
    with zipfile.ZipFile(path) as packed, atomic_directory(folder) as beside:
        for member in archive.members:
            with packed.open(member) as source, (beside / PurePosixPath(member).name).open("wb") as target:
                shutil.copyfileobj(source, target)
