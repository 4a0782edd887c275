"""Entities that a training shares with the training of the model that it starts from."""

from __future__ import annotations

from pipelines.experiments.training_inputs import TrainingInputs
from recsys_meta.models.bundle import Bundle


def describe_overlap(model: Bundle, inputs: TrainingInputs) -> str | None:
    """Warn where entities that validate or test may have trained the model: it is of the same kind of data, but of
    another split of them. A bundle holds no ids of entities, so which ones is not known. None: they have not."""
    data, about = inputs.data, model.about
    same_split = (about.get("data_digest"), about.get("seed"), about.get("split"))
    if model.schema.name != data.schema.name or same_split == (data.digest, inputs.seed, inputs.split_by):
        return None
    return (
        f"the model {model.version} was trained on another split of {data.schema.name}: entities that validate or test "
        "here may be among those that it was trained on, so meta-validation and evaluations are too high"
    )
