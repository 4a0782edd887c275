"""Snapshot of the live versions and active splits that the database last named, for a server that starts while it is
away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from api.inference.loaded_model import LoadedModel, activate_split, open_version
from api.inference.model_registry import ModelRegistry
from recsys_meta.core.atomic_io import dump_checksummed, load_checksummed, write_file
from recsys_meta.core.errors import RecsysMetaError
from recsys_meta.store.model_registry.split_arms import SplitArm, TrafficSplit
from recsys_meta.store.model_registry.tables import ModelVersionRecord

Live = dict[str, str]


class RegistrySnapshot:
    """The file `path`, and the bundles that it names in `folder` (models/NAME/VERSION)."""

    def __init__(self, path: Path, folder: Path, log: Any, sketch_from: int = 0) -> None:
        self._path, self._folder, self._log, self._sketch_from = path, folder, log, sketch_from
        self._written: dict[str, Any] | None = None

    async def save(self, registry: ModelRegistry) -> None:
        """Write the snapshot where it changed. To be called after the database was read."""
        live = {name: model.version for name, model in registry.live.items()}
        splits = [_encode_split(active.split) for active in registry.splits.values()]
        content = {"live": live, "splits": splits, "defaults": dict(registry.defaults)}
        if content == self._written:
            return
        try:
            await asyncio.to_thread(write_file, self._path, dump_checksummed(content).encode())
            self._written = content
        except OSError as error:  # costs no more than a start while the database is away
            self._written = content
            self._log.warning("live models could not be noted", reason=type(error).__name__)

    async def restore(self, registry: ModelRegistry) -> None:
        """Take the snapshot into service until the database says what is live. A damaged file counts as none, and an
        arm that cannot be loaded is left to the live version."""
        live, splits, defaults = await asyncio.to_thread(self._read)
        arms = [(split.model, arm.version) for split in splits for arm in split.arms]
        models_by_key = await self._open([*live.items(), *arms])
        models = {key[0]: models_by_key[key] for key in live.items() if key in models_by_key}
        if models and not registry.asked:
            registry.live, registry.defaults = MappingProxyType(models), MappingProxyType(defaults)
            registry.splits = MappingProxyType(
                {
                    s.model: activate_split(
                        s, models.get(s.model), [models_by_key.get((s.model, a.version)) for a in s.arms]
                    )
                    for s in splits
                }
            )
            self._log.warning("the database is away: models are those it named last", models=sorted(models))

    async def _open(self, versions: Iterable[tuple[str, str]]) -> dict[tuple[str, str], LoadedModel]:
        """Load versions, by model and version, without those that cannot be loaded."""
        models_by_key: dict[tuple[str, str], LoadedModel] = {}
        for model, version in dict.fromkeys(versions):
            row = ModelVersionRecord(model=model, version=version, path=version)
            try:
                models_by_key[model, version] = await asyncio.to_thread(
                    open_version, self._folder, row, self._sketch_from
                )
            except (RecsysMetaError, OSError, ValueError, KeyError) as error:
                self._log.warning("a noted model cannot be loaded", model=model, reason=type(error).__name__)
        return models_by_key

    def _read(self) -> tuple[Live, list[TrafficSplit], dict[str, str]]:
        try:
            content = load_checksummed(self._path.read_text())
            live = {str(name): str(version) for name, version in content["live"].items()}
            defaults = {str(kind): str(name) for kind, name in content.get("defaults", {}).items()}
            return live, [_decode_split(record) for record in content.get("splits", ())], defaults
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return {}, [], {}


def _encode_split(split: TrafficSplit) -> dict[str, Any]:
    arms = [[arm.label, arm.version, arm.weight] for arm in split.arms]
    return {
        "model": split.model,
        "change": split.sequence,
        "salt": split.salt,
        "at": split.at.timestamp(),
        "arms": arms,
    }


def _decode_split(record: dict[str, Any]) -> TrafficSplit:
    arms = tuple(SplitArm(str(label), str(version), float(weight)) for label, version, weight in record["arms"])
    at = datetime.fromtimestamp(float(record["at"]), UTC)
    return TrafficSplit(str(record["model"]), int(record["change"]), arms, str(record["salt"]), None, at)
