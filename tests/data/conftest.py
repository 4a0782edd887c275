import os
from pathlib import Path

import pytest

from recsys_meta.data import locate, prepare_named
from tests.fixtures.services import missing


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Where the real data lie; tests that need them skip without it."""
    root = Path(os.environ.get("RECSYS_META_DATA", ""))
    if not os.environ.get("RECSYS_META_DATA") or not root.is_dir():
        missing("real data", FileNotFoundError("RECSYS_META_DATA names no directory"))
    return root


@pytest.fixture(scope="session")
def real(data_root, tmp_path_factory):
    """A real data set by name, prepared once; skips where its files are not there."""
    made = {}

    def of(name):
        if name not in made:
            if locate(name, None, data_root) is None:
                missing("real data", FileNotFoundError(f"{name} is not under RECSYS_META_DATA"))
            out = tmp_path_factory.mktemp("real") / name
            made[name] = prepare_named(name, out, data_root=data_root, download=False)
        return made[name]

    return of
