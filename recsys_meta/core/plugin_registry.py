"""Registries of methods and data sets by name: those of this project, and those that installed packages register.

A package registers an object under an entry point (its pyproject.toml, a table `[project.entry-points."GROUP"]`). Names
are read from the metadata of the installed packages; a package's code is imported when its name is asked for, and in no
other way: nothing imports a module that a recipe, a bundle or an option names.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, MutableMapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from recsys_meta.core.errors import ConfigError, describe_unexpected

_LOG = logging.getLogger(__name__)
Entry = TypeVar("Entry")


class PluginRegistry(MutableMapping[str, Entry]):
    """Entries by name: this project's, then those of installed packages.

    `group` is the group of entry points, `noun` what an entry is called in errors. `find_fault(name, object)` says what
    is wrong with an object that a package registered; None: nothing. Looking up a name raises KeyError where there is
    none, and ConfigError, which names the package, where its object cannot be used: its import fails, it is no such
    entry, or the name is taken. To iterate or to ask whether a name is there imports nothing.
    """

    def __init__(
        self, group: str, noun: str, builtin: dict[str, Entry], find_fault: Callable[[str, Any], str | None]
    ) -> None:
        self.group, self.noun = group, noun
        self._builtin, self._find_fault = builtin, find_fault
        self._loaded: dict[EntryPoint, Entry | ConfigError] = {}
        self._warned: set[str] = set()

    def __getitem__(self, name: str) -> Entry:
        points = self._points(name)
        if not points:
            return self._builtin[name]
        if len(points) > 1 or name in self._builtin:
            raise ConfigError(self._explain_clash(name, points))
        point = points[0]
        if point not in self._loaded:
            self._loaded[point] = self._load(point)
        entry = self._loaded[point]
        if isinstance(entry, ConfigError):
            raise ConfigError(str(entry))
        return entry

    def __setitem__(self, name: str, entry: Entry) -> None:
        self._builtin[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._builtin[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._builtin, *self.plugin_names]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in self._builtin or name in self.plugin_names

    @property
    def plugin_names(self) -> list[str]:
        """Names that installed packages register, sorted."""
        return sorted({point.name for point in _installed(self.group)})

    def package(self, name: str) -> str | None:
        """Name of the package that registers a name; None for one of this project."""
        points = self._points(name)
        return _package_name(points[0]) if points else None

    def usable(self) -> dict[str, Entry]:
        """All entries that can be used. The others cost nobody anything but a warning, the first time."""
        entries: dict[str, Entry] = {}
        for name in self:
            try:
                entries[name] = self[name]
            except ConfigError as error:
                if name not in self._warned:
                    _LOG.warning("left out: %s", error)
                self._warned.add(name)
        return entries

    def _points(self, name: str) -> list[EntryPoint]:
        return [point for point in _installed(self.group) if point.name == name]

    def _explain_clash(self, name: str, points: list[EntryPoint]) -> str:
        packages = [f"the package {_package_name(p)}" for p in points]
        owners = [*(["recsys-meta"] if name in self._builtin else []), *packages]
        return (
            f"{self.noun} '{name}' is registered by {' and by '.join(owners)} ({self.group}); "
            f"rename it in {packages[-1]}, or uninstall that package"
        )

    def _load(self, point: EntryPoint) -> Entry | ConfigError:
        """Import an entry and check it, once: what went wrong is told again at each use."""
        where = f"{self.noun} '{point.name}' of the package {_package_name(point)} ({point.value})"
        try:
            entry = point.load()
        except (Exception, SystemExit) as error:  # the package's own code: it may do anything
            return ConfigError(f"{where} cannot be imported: {describe_unexpected(error)}")
        fault = self._find_fault(point.name, entry)
        return entry if fault is None else ConfigError(f"{where} cannot be used: {fault}")


def _installed(group: str) -> tuple[EntryPoint, ...]:
    return _read_metadata(group, tuple(sys.path))


@cache
def _read_metadata(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Entry points of a group. `path` is where packages are looked for: reading the metadata of all of them takes some
    ten milliseconds, so it is done once for each path."""
    try:
        return tuple(entry_points(group=group))
    except Exception as error:  # metadata that cannot be read, of whichever package: what is built in works without
        _LOG.warning("no entry points of %s are read: %s", group, describe_unexpected(error))
        return ()


def _package_name(point: EntryPoint) -> str:
    return (point.dist.name if point.dist is not None else None) or "without a name"
