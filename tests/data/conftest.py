import os
from pathlib import Path

import pytest

from tests.services import missing


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Where the real data lie; tests that need them skip without it."""
    root = Path(os.environ.get("RECSYS_META_DATA", ""))
    if not os.environ.get("RECSYS_META_DATA") or not root.is_dir():
        missing("real data", FileNotFoundError("RECSYS_META_DATA names no directory"))
    return root
