"""Entities that a training shares with the training of the model that it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.experiments.training_inputs import TrainingInputs
from recsys_meta.models.bundle import Bundle


def describe_overlap(model: Bundle, inputs: TrainingInputs) -> str | None:
    """Warn where entities that validate or test may have trained the model: it is of the same kind of data, but of
    another split of them. A bundle holds no ids of entities, so which ones is not known. None: they have not."""
    if model.schema.name != inputs.data.schema.name or _is_same_split(model.about, inputs):
        return None
    return (
        f"the model {model.version} was trained on another split of {inputs.data.schema.name}: entities that validate "
        "or test here may be among those that it was trained on, so meta-validation and evaluations are too high. With "
        "--split hash:0 in both trainings entities keep their part while data grow"
    )


def _is_same_split(about: Mapping[str, Any], inputs: TrainingInputs) -> bool:
    """True where each entity has the part that it had: by a hash of its id it has, else in the same data alone."""
    split = str(about.get("split"))
    if split != inputs.split_by:
        return False
    if split.startswith("hash:"):
        return True
    same_seed = split.startswith("seed:") or about.get("seed") == inputs.seed
    return same_seed and about.get("data_digest") == inputs.data.digest
