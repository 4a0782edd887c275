"""The tables of every domain make up one schema, of which no table is missed."""

import pkgutil
import subprocess
import sys
from importlib import import_module

import pytest

import recsys_meta.store
from recsys_meta.store.database.base import Base
from recsys_meta.store.tables import METADATA, RECORDS

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(recsys_meta.store.__path__, "recsys_meta.store.")
    if module.name.endswith(".tables") and module.name != "recsys_meta.store.tables"
)
RESOLVE = """
import sys
from importlib import import_module
import_module(sys.argv[1])
from recsys_meta.store.database.base import Base
assert Base.metadata.sorted_tables
"""


def test_every_domain_declares_its_tables() -> None:
    assert [name.split(".")[-2] for name in MODULES] == [
        "access",
        "entities",
        "installation",
        "items",
        "model_registry",
        "tracking",
    ]


def test_no_table_is_missed() -> None:
    for module in pkgutil.walk_packages(recsys_meta.store.__path__, "recsys_meta.store."):
        import_module(module.name)
    assert set(RECORDS) == set(Base.__subclasses__())
    assert len(RECORDS) == 32
    assert sorted(record.__tablename__ for record in RECORDS) == sorted(METADATA.tables)


@pytest.mark.parametrize("module", MODULES)
def test_a_domain_imports_what_its_foreign_keys_refer_to(module: str) -> None:
    """Else a program that uses that domain alone fails at its first insert."""
    subprocess.run([sys.executable, "-c", RESOLVE, module], check=True, timeout=120)
