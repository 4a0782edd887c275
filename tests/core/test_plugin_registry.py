"""Entries of installed packages by name: found, checked, and where they are broken, harmless to all others."""

import logging
import sys

import pytest

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.plugin_registry import PluginRegistry
from tests.fixtures.plugin_packages import install, write_package

MODULE = "import sys\nsys.imports_of_numbers = getattr(sys, 'imports_of_numbers', 0) + 1\nthree, word = 3, 'three'\n"


def registry():
    def find_fault(name, entry):
        return None if isinstance(entry, int) else "it is no number"

    return PluginRegistry("recsys_meta.numbers", "number", {"one": 1, "two": 2}, find_fault)


@pytest.fixture
def numbers(tmp_path, monkeypatch):
    names = {"three": "plugin_numbers:three", "one": "plugin_numbers:three", "word": "plugin_numbers:word"}
    broken = {"gone": "no_such_module:x", "hole": "plugin_numbers:x", "wrong": "not a value"}
    broken |= {"exits": "plugin_exits:x", "raises": "plugin_raises:x"}
    modules = {"plugin_numbers": MODULE, "plugin_exits": "raise SystemExit(3)", "plugin_raises": "1 / 0"}
    write_package(tmp_path, "more-numbers", {"numbers": {**names, **broken}}, modules)
    write_package(tmp_path, "other-numbers", {"numbers": {"five": "plugin_numbers:three"}})
    write_package(tmp_path, "fifth-number", {"numbers": {"five": "plugin_numbers:three"}})
    install(monkeypatch, tmp_path)
    monkeypatch.setattr(sys, "imports_of_numbers", 0, raising=False)
    yield registry()
    for name in modules:
        sys.modules.pop(name, None)


def test_a_name_of_an_installed_package_is_one_of_ours(numbers):
    assert numbers["three"] == 3 and numbers["two"] == 2
    assert numbers.package("three") == "more-numbers" and numbers.package("two") is None
    assert {"one", "two", "three", "five"} <= set(numbers) and "three" in numbers and "six" not in numbers
    with pytest.raises(KeyError):
        numbers["six"]
    assert numbers.get("six") is None


def test_nothing_is_imported_before_it_is_asked_for(numbers):
    assert list(numbers) and "three" in numbers and numbers["two"] == 2
    assert sys.imports_of_numbers == 0
    assert numbers["three"] == numbers["three"] == 3
    assert sys.imports_of_numbers == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gone", "number 'gone' of the package more-numbers .*cannot be imported: ModuleNotFoundError"),
        ("hole", "more-numbers .*AttributeError"),
        ("wrong", "more-numbers .*cannot be imported"),
        ("exits", "more-numbers .*SystemExit: 3"),
        ("raises", "more-numbers .*ZeroDivisionError"),
        ("word", "more-numbers .*cannot be used: it is no number"),
        ("one", "'one' is registered by recsys-meta and by the package more-numbers"),
        ("five", "'five' is registered by the package .*-number.* and by the package .*-number"),
    ],
)
def test_a_broken_one_is_one_error_at_each_use(numbers, name, says):
    for _ in range(2):
        with pytest.raises(ConfigError, match=says) as raised:
            numbers[name]
        assert "\n" not in str(raised.value)


def test_broken_ones_cost_the_others_a_warning(numbers, caplog):
    with caplog.at_level(logging.WARNING):
        assert numbers.usable() == numbers.usable() == {"two": 2, "three": 3}
    assert sum("left out" in r.message for r in caplog.records) == 8


def test_metadata_that_cannot_be_read_hides_no_built_in(tmp_path, monkeypatch):
    write_package(tmp_path, "garbled", {})
    (tmp_path / "garbled-1.0.dist-info" / "entry_points.txt").write_bytes(b"[recsys_meta.numbers]\n\xff = \xff\n")
    install(monkeypatch, tmp_path)
    assert registry()["one"] == 1


def test_without_packages_there_is_what_was_given():
    assert dict(registry()) == registry().usable() == {"one": 1, "two": 2}
