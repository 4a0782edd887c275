"""Files of the registry's own bundles: FOLDER/MODEL/VERSION."""

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def remove_bundles(folder: Path, model: str, paths: Iterable[str]) -> list[str]:
    """Remove bundles of a model and return those that were there; what lies elsewhere is not ours and stays."""
    return [path for path in paths if _remove_bundle(folder.resolve() / model, Path(path))]


def _remove_bundle(own: Path, path: Path) -> bool:
    if path.resolve().parent != own or not path.is_dir():
        return False
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):  # other versions are still there
        own.rmdir()
    return True
