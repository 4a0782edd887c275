"""Bodies of responses about models, their versions and their splits."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import ConfigDict

from recsys_meta.wire.base import ResponseModel, always_present


class ModelStatus(ResponseModel):
    """A model. `loaded` is the version that this process serves; `problem` why it is not the live one."""

    name: str
    live: str | None
    versions: int | None
    created: datetime | None
    updated: datetime | None
    loaded: str | None
    kind: str | None
    objective: str | None
    predictor: str | None
    items: int | None
    features: list[str]
    default: bool = always_present(False)
    problem: str | None


class ModelList(ResponseModel):
    """All models."""

    items: list[ModelStatus]
    degraded: bool


class VersionRow(ResponseModel):
    """A version of a model."""

    version: str
    run: str | None
    metrics: dict[str, Any]
    created: datetime
    archived: datetime | None = always_present(None)


class AliasChange(ResponseModel):
    """A change of what is live."""

    model: str
    version: str
    previous: str | None
    action: str
    actor: str | None
    at: datetime


class ModelRetirement(ResponseModel):
    """A model out of service, and the version that was live; null where none was."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "users", "version": "c7c0885a484970f8"}]})

    model: str
    version: str | None


class VersionState(ResponseModel):
    """A version, and since when it is archived; null where it may be used."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "users", "version": "c7c0885a484970f8", "archived": "2026-01-31T12:00:00Z"}]
        }
    )

    model: str
    version: str
    archived: datetime | None


class ModelDeletion(ResponseModel):
    """Deletion of a version or, where that is null, of the whole model; and how many bundles went from the disk."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "users", "version": "c7c0885a484970f8", "bundles": 1}]}
    )

    model: str
    version: str | None
    bundles: int


class DefaultModel(ResponseModel):
    """The model that answers for a kind of newcomer where a request names none."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"kind": "user", "model": "users"}]})

    kind: str
    model: str


class ModelDocument(ModelStatus):
    """A model with its versions and the history of what was live, both newest first."""

    registered: list[VersionRow]
    history: list[AliasChange]


class ArmShare(ResponseModel):
    """A version of a split, and its share of the entities, 0 to 1."""

    label: str
    version: str
    weight: float


class SplitChange(ResponseModel):
    """A change of a split; without arms it ended."""

    arms: list[ArmShare]
    salt: str
    actor: str | None
    at: datetime


class SplitDocument(ResponseModel):
    """The versions of a model that answer, and all changes, newest first. Without a split the live one answers."""

    model: str
    live: str | None
    split: SplitChange | None
    history: list[SplitChange]
