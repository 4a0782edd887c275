"""Ground truth of a prepared data set that a simulator made, rebuilt from its name and seed."""

from __future__ import annotations

import numpy as np

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.data.simulators.latent_factors import GroundTruth
from recsys_meta.data.sources.registry import SOURCES


def ground_truth_of(data: Dataset) -> GroundTruth:
    """Simulate the world of a prepared data set again. The data set holds the name and the seed, nothing of the truth.

    Raises ConfigError for data that no simulator made, whose simulator has another kind of truth, or whose rows are not
    those of the simulator as it is now.
    """
    name, seed = data.about.get("name"), data.about.get("seed")
    source = SOURCES.get(str(name))
    if source is None or source.simulate is None or not isinstance(seed, int):
        raise ConfigError(f"the truth of '{data.schema.name}' is not known: no simulator of this project made it")
    truth = source.simulate(seed).truth
    if not isinstance(truth, GroundTruth):
        raise ConfigError(f"'{name}' has a truth, but no optimum that can be computed")
    names = np.array(data.vocab.values["entity"], dtype=str)
    if not (np.array_equal(names, truth.entity_ids) and np.array_equal(data.events.counts, truth.row_counts)):
        raise ConfigError(f"'{name}' has other rows than its simulator makes now: prepare it anew")
    return truth
