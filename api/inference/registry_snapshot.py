"""Which versions were live, and which splits stood, when the database last said so: for a server that starts while it
is away."""

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
    """The file `notes`, and the bundles it names in `folder` (models/NAME/VERSION)."""

    def __init__(self, notes: Path, folder: Path, log: Any) -> None:
        self._notes, self._folder, self._log = notes, folder, log
        self._written: dict[str, Any] | None = None

    async def save(self, registry: ModelRegistry) -> None:
        """Write down what is live, where it changed. To be called after the database was asked."""
        live = {name: model.version for name, model in registry.live.items()}
        standing = {"live": live, "splits": [_note(divided.split) for divided in registry.splits.values()]}
        if standing == self._written:
            return
        try:
            await asyncio.to_thread(write_file, self._notes, dump_checksummed(standing).encode())
            self._written = standing
        except OSError as error:  # a home that cannot be written costs no more than this
            self._written = standing
            self._log.warning("live models could not be noted", reason=type(error).__name__)

    async def restore(self, registry: ModelRegistry) -> None:
        """Take what is noted into service until the database says what is live. Damaged notes are none, and an arm
        that cannot be loaded is left to the live version."""
        live, splits = await asyncio.to_thread(self._read)
        arms = [(split.model, arm.version) for split in splits for arm in split.arms]
        found = await self._open([*live.items(), *arms])
        models = {key[0]: found[key] for key in live.items() if key in found}
        if models and not registry.asked:
            registry.live = MappingProxyType(models)
            registry.splits = MappingProxyType(
                {
                    s.model: activate_split(s, models.get(s.model), [found.get((s.model, a.version)) for a in s.arms])
                    for s in splits
                }
            )
            self._log.warning("the database is away: models are those it named last", models=sorted(models))

    async def _open(self, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], LoadedModel]:
        """Versions by model and version, less those that cannot be loaded."""
        found: dict[tuple[str, str], LoadedModel] = {}
        for model, version in dict.fromkeys(wanted):
            row = ModelVersionRecord(model=model, version=version, path=version)
            try:
                found[model, version] = await asyncio.to_thread(open_version, self._folder, row)
            except (RecsysMetaError, OSError, ValueError, KeyError) as error:
                self._log.warning("a noted model cannot be loaded", model=model, reason=type(error).__name__)
        return found

    def _read(self) -> tuple[Live, list[TrafficSplit]]:
        try:
            standing = load_checksummed(self._notes.read_text())
            live = {str(name): str(version) for name, version in standing["live"].items()}
            return live, [_split(noted) for noted in standing.get("splits", ())]
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return {}, []


def _note(split: TrafficSplit) -> dict[str, Any]:
    arms = [[arm.label, arm.version, arm.weight] for arm in split.arms]
    return {
        "model": split.model,
        "change": split.sequence,
        "salt": split.salt,
        "at": split.at.timestamp(),
        "arms": arms,
    }


def _split(noted: dict[str, Any]) -> TrafficSplit:
    arms = tuple(SplitArm(str(label), str(version), float(weight)) for label, version, weight in noted["arms"])
    at = datetime.fromtimestamp(float(noted["at"]), UTC)
    return TrafficSplit(str(noted["model"]), int(noted["change"]), arms, str(noted["salt"]), None, at)
