"""Where a command works: settings, database, prepared data sets, recipes, runs and published models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib.resources import files
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import CheckpointError, ConfigError, DataError, NotFoundError
from recsys_meta.data import SOURCES, open_dataset, prepare_named
from recsys_meta.models.bundle import Bundle, load_bundle
from recsys_meta.store.cache.keys import owner_key
from recsys_meta.store.cache.redis_cache import SyncRedisCache
from recsys_meta.store.database import engine as database
from recsys_meta.store.database.migrate import upgrade_database
from recsys_meta.store.model_registry.registry import resolve_version
from recsys_meta.store.model_registry.split_arms import newest_split
from recsys_meta.store.settings import Settings
from recsys_meta.training.recipe import Recipe, read_recipe


class Workspace:
    """Opened lazily: a command that needs no database touches none."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()

    @cached_property
    def engine(self) -> Engine:
        """The database, at the newest revision where it is our own SQLite file.

        A PostgreSQL database is upgraded by `recsys-meta db upgrade` only: it may be shared.
        """
        url = self.settings.database
        if url.startswith("sqlite"):
            upgrade_database(url)
        return database.connect(url)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction. Raises DataError for a value that the database cannot hold."""
        with _value_errors_as_data_errors(), database.session(self.engine) as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that only reads. Raises as `session` does."""
        with _value_errors_as_data_errors(), database.reading(self.engine) as session:
            yield session

    def evict_cached_states(self, kind: str, entity: str) -> int | None:
        """Drop what the shared cache holds of an entity; answers how many keys, None where no Redis is set. Raises
        StoreError when it cannot be reached."""
        if self.settings.redis is None:
            return None
        cache = SyncRedisCache(self.settings.redis)
        try:
            return cache.delete_owned(owner_key(kind, entity))
        finally:
            cache.close()

    def dataset(self, name: str) -> tuple[Dataset, Path]:
        """A prepared data set by folder or name; a named one is prepared first if it is not there yet.

        Raises DataError with what to do when it can be found nowhere.
        """
        folder = Path(name)
        if (folder / "dataset.json").is_file():
            return open_dataset(folder), folder
        folder = self.settings.prepared / name
        if "/" not in name and (folder / "dataset.json").is_file():
            return open_dataset(folder), folder
        if name not in SOURCES:
            raise ConfigError(
                f"'{name}' is no prepared data set (a folder with dataset.json, or a name under "
                f"{self.settings.prepared}) and none of {', '.join(SOURCES)}; "
                "one that was prepared with --out is given by its folder: --dataset FOLDER"
            )
        return prepare_named(name, folder, data_root=self.settings.data), folder

    def bundle(self, name: str) -> Bundle:
        """A published model: NAME (its live version), NAME@VERSION, or the folder of a bundle."""
        return load_bundle(self.bundle_folder(name))

    def bundle_for_entity(self, name: str, entity: str | None) -> tuple[Bundle, str | None]:
        """Who answers for an entity: of a model that is split its arm, and the arm's label, unless a version is named.
        An arm that is for others, or cannot be loaded, is left to the live version."""
        if entity is not None and "@" not in name and not self.is_bundle(name):
            with self.reading() as session:
                split = newest_split(session, name)
            arm = None if split is None else split.arm_for(entity)
            if arm is not None:
                live = self.bundle(name)
                with suppress(CheckpointError):
                    bundle = self.bundle(f"{name}@{arm.version}")
                    if bundle.schema.kind == live.schema.kind:
                        return bundle, arm.label
                return live, None
        return self.bundle(name), None

    @staticmethod
    def is_bundle(name: str) -> bool:
        """Whether a bundle is meant by its folder, rather than by what it was published as."""
        return (Path(name) / "bundle.json").is_file()

    def bundle_folder(self, name: str) -> Path:
        """Where a published model lies."""
        if self.is_bundle(name):
            return Path(name)
        with self.reading() as session:
            return Path(resolve_version(session, name).path)


@contextmanager
def _value_errors_as_data_errors() -> Iterator[None]:
    """The store's ValueError is the caller's to see: a text that is too long, or that no database holds."""
    try:
        yield
    except ValueError as error:
        raise DataError(str(error)) from error


def recipe_names() -> list[str]:
    """Recipes that come with the project."""
    return sorted(
        p.name.removesuffix(".toml") for p in files("pipelines.recipes").iterdir() if p.name.endswith(".toml")
    )


def find_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """A recipe by name or file. Raises NotFoundError with the names there are, ConfigError for wrong content."""
    if name.endswith(".toml"):
        if not Path(name).is_file():
            raise NotFoundError(f"{name}: no such recipe file")
        return read_recipe(Path(name), overrides)
    if name not in recipe_names():
        raise NotFoundError(f"no recipe '{name}'; there are {', '.join(recipe_names())}, or give a .toml file")
    return read_recipe(Path(str(files("pipelines.recipes") / f"{name}.toml")), overrides)
