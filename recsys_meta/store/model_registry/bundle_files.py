"""Files of the registry's own bundles: FOLDER/MODEL/VERSION, and beside each the results of its newcomers."""

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def newcomers_file(bundle: Path) -> Path:
    """Return the path of the results of the newcomers that a bundle was evaluated on."""
    return bundle.with_name(f"newcomers-{bundle.name}.parquet")


def remove_bundles(folder: Path, model: str, paths: Iterable[str]) -> list[str]:
    """Remove bundles of a model and return those that were there; what lies elsewhere is not ours and stays."""
    return [path for path in paths if _remove_bundle(folder.resolve() / model, Path(path))]


def _remove_bundle(own: Path, path: Path) -> bool:
    if path.resolve().parent != own or not path.is_dir():
        return False
    shutil.rmtree(path, ignore_errors=True)
    newcomers_file(path).unlink(missing_ok=True)
    with suppress(OSError):  # other versions are still there
        own.rmdir()
    return True
