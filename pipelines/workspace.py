"""Workspace of a command: settings, database, prepared data sets, recipes, runs and published models.

Readers of data and torch are imported by what needs them, so that the other commands start at once.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recsys_meta.core.errors import CheckpointError, ConfigError, DataError, NotFoundError
from recsys_meta.store.cache.keys import owner_key
from recsys_meta.store.cache.redis_cache import SyncRedisCache
from recsys_meta.store.database import engine as database
from recsys_meta.store.database.migrate import upgrade_database
from recsys_meta.store.items.items import changed_items
from recsys_meta.store.model_registry.registry import get_model_record, page_models, resolve_version
from recsys_meta.store.model_registry.split_arms import newest_split
from recsys_meta.store.settings import Settings
from recsys_meta.training.recipe import Recipe, read_recipe, recipe_of

if TYPE_CHECKING:
    from recsys_meta.core.dataset import Dataset
    from recsys_meta.inference.new_items.stored_items import StoredItem
    from recsys_meta.models.bundle import Bundle

_LOG = logging.getLogger(__name__)


class LiveModel(NamedTuple):
    """A model in service: its name and its bundle."""

    name: str
    bundle: Bundle

    def has_item(self, item: str) -> bool:
        """Return whether the model was trained on an item."""
        return item in self.bundle.vocab.values["item"]


class Workspace:
    """Settings and the resources that they name, each opened on first use."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()

    @cached_property
    def engine(self) -> Engine:
        """Engine of the database; a SQLite file is upgraded to the newest revision first.

        A PostgreSQL database may be shared, so only `recsys-meta db upgrade` upgrades it.
        """
        url = self.settings.database
        if url.startswith("sqlite"):
            upgrade_database(url)
        return database.connect(url, self.settings.database_options)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open a transaction that may write. Raises DataError for a value that the database cannot store."""
        with _value_errors_as_data_errors(), database.session(self.engine) as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Open a transaction that only reads. Raises like `session`."""
        with _value_errors_as_data_errors(), database.reading(self.engine) as session:
            yield session

    def evict_cached_states(self, kind: str, entity: str) -> int | None:
        """Delete an entity's values from the shared cache; return how many, None without a Redis URL.

        Raises StoreError if Redis cannot be reached.
        """
        if self.settings.redis is None:
            return None
        cache = SyncRedisCache(self.settings.redis)
        try:
            return cache.delete_owned(owner_key(kind, entity))
        finally:
            cache.close()

    def dataset(self, name: str) -> tuple[Dataset, Path]:
        """Return a prepared data set, by folder or name, and its folder; prepare a built-in one on first use.

        A name is first looked for among the prepared data sets, so that a folder of that name in the working directory
        does not hide one. A TOML schema, or the folder of one, is prepared each time: its files may have changed; what
        is likely to be wrong with its data is logged. Raises ConfigError for an unknown name or a wrong schema,
        DataError if its data cannot be read.
        """
        from recsys_meta.data import SOURCES, find_schema, open_dataset, prepare_custom, prepare_named

        for folder in self.settings.prepared_folders(name):
            if (folder / "dataset.json").is_file():
                return open_dataset(folder), folder
        if name in SOURCES:
            folder = self.settings.prepared / name
            return prepare_named(name, folder, data_root=self.settings.data), folder
        if name and (schema := find_schema(Path(name))) is not None:
            folder = self.settings.prepared / _custom_folder_name(schema)
            data = prepare_custom(schema, folder)
            for warning in data.warnings:
                _LOG.warning("%s: %s", schema, warning)
            return data, folder
        raise ConfigError(
            f"'{name}' is no prepared data set (a folder with dataset.json, or a name under "
            f"{self.settings.prepared}), no TOML schema nor the folder of one, and none of {', '.join(SOURCES)}; "
            "one that was prepared with --out is given by its folder: --dataset FOLDER"
        )

    def bundle(self, name: str) -> Bundle:
        """Load a published model by NAME (its live version) or NAME@VERSION, or a bundle by its folder."""
        from recsys_meta.models.bundle import load_bundle

        return load_bundle(self.bundle_folder(name))

    def stored_items(self, kind: str) -> list[StoredItem]:
        """Return the items of a kind that are stored, those that were changed last coming last."""
        from recsys_meta.inference.new_items.stored_items import StoredItem

        items, after, is_all = list[StoredItem](), 0, False
        with self.reading() as session:
            while not is_all:
                rows, is_all = changed_items(session, kind, after)
                items += [
                    StoredItem(r.external_id, r.features, r.title, r.available, r.revision)
                    for r in rows
                    if r.deleted is None
                ]
                after = rows[-1].revision if rows else after
        return items

    def live_models(self) -> list[LiveModel]:
        """Load the models in service, in order of their names. One that cannot be loaded is left out with a warning, as
        a server leaves it out."""
        from recsys_meta.models.bundle import load_bundle

        with self.reading() as session:
            rows = [get_model_record(session, m.name, m.live) for m in page_models(session) if m.live is not None]
            places = [(row.model, row.path, row.version) for row in rows]
        models = []
        for name, path, version in places:
            folder = self.settings.models / name / version
            try:
                models.append(LiveModel(name, load_bundle(folder if self.is_bundle(str(folder)) else Path(path))))
            except (CheckpointError, ConfigError) as error:
                _LOG.warning("model %s is left out: %s", name, error)
        return models

    def bundle_for_entity(self, name: str, entity: str | None) -> tuple[Bundle, str | None]:
        """Return the bundle that answers for an entity, and the label of its arm if the model is split.

        A version that is named explicitly is never replaced by an arm. The live version answers for an arm of another
        kind of entity, or one that cannot be loaded.
        """
        if entity is not None and "@" not in name and not self.is_bundle(name):
            with self.reading() as session:
                split = newest_split(session, name)
            arm = None if split is None else split.arm_for(entity)
            if arm is not None:
                live = self.bundle(name)
                with suppress(CheckpointError, ConfigError):
                    bundle = self.bundle(f"{name}@{arm.version}")
                    if bundle.schema.kind == live.schema.kind:
                        return bundle, arm.label
                return live, None
        return self.bundle(name), None

    @staticmethod
    def is_bundle(name: str) -> bool:
        """Return whether a name is the folder of a bundle rather than a published name."""
        return (Path(name) / "bundle.json").is_file()

    def bundle_folder(self, name: str) -> Path:
        """Return the folder of a bundle or of a published model. Raises NotFoundError, ConflictError."""
        if self.is_bundle(name):
            return Path(name)
        with self.reading() as session:
            return Path(resolve_version(session, name).path)


def _custom_folder_name(schema: Path) -> str:
    """Return a folder name that differs for schemas of the same name. Raises ConfigError, DataError for a wrong one."""
    from recsys_meta.data import read_custom

    digest = hashlib.sha256(str(schema.resolve()).encode()).hexdigest()[:8]
    return f"{read_custom(schema)[0].schema.name}-{digest}"


@contextmanager
def _value_errors_as_data_errors() -> Iterator[None]:
    """Turn the store's ValueError, for a text that is too long or not storable, into a DataError for the caller."""
    try:
        yield
    except ValueError as error:
        raise DataError(str(error)) from error


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the project."""
    return sorted(
        p.name.removesuffix(".toml") for p in files("pipelines.recipes").iterdir() if p.name.endswith(".toml")
    )


def find_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """Return a recipe by name or .toml file. A learner of an installed package is a recipe too, with its own settings.

    Raises NotFoundError with the known names, ConfigError for bad content or a learner that cannot be used.
    """
    if name.endswith(".toml"):
        if not Path(name).is_file():
            raise NotFoundError(f"{name}: no such recipe file")
        return read_recipe(Path(name), overrides)
    if name in recipe_names():
        return read_recipe(Path(str(files("pipelines.recipes") / f"{name}.toml")), overrides)
    from recsys_meta.models.learners import LEARNERS

    if name in LEARNERS.plugin_names:
        return recipe_of({**getattr(LEARNERS[name], "recipe", {}), "name": name, "learner": name}, overrides, name)
    names = ", ".join([*recipe_names(), *LEARNERS.plugin_names])
    raise NotFoundError(f"no recipe '{name}'; there are {names}, or give a .toml file")
