"""Data sets of one comparison: opened before anything is trained, each with a label that no other one has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.experiments.comparison_run import is_applicable, recipe_for
from pipelines.experiments.dataset_summary import DatasetFailure
from pipelines.workspace import Workspace, find_recipe
from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError, RecsysMetaError
from recsys_meta.models.baselines import BASELINES


@dataclass(frozen=True)
class DatasetSource:
    """Data set as its user named it, the folder it is prepared in, and its label in results."""

    given: str
    folder: Path
    label: str


def open_sources(workspace: Workspace, names: Sequence[str]) -> tuple[list[DatasetSource], list[DatasetFailure]]:
    """Prepare and open data sets; return those that could be opened, and the failures of the others.

    A label is the name in the schema; where several have it, with the folder behind. Raises ConfigError for a data set
    that is given twice.
    """
    opened: dict[str, tuple[str, Path]] = {}
    failures = []
    for given in names:
        try:
            data, folder = workspace.dataset(given)
        except (RecsysMetaError, OSError) as error:
            failures.append(DatasetFailure(given, str(error)))
            continue
        for other, (_, same) in opened.items():
            if same.resolve() == folder.resolve():
                raise ConfigError(f"--dataset {other} and --dataset {given} are one data set")
        opened[given] = (data.schema.name, folder)
    uses = Counter(name for name, _ in opened.values())
    sources = [
        DatasetSource(given, folder, name if uses[name] == 1 else f"{name} ({given if '/' in given else folder})")
        for given, (name, folder) in opened.items()
    ]
    return sources, failures


def require_known(learners: Sequence[str], baselines: Sequence[str]) -> None:
    """Raise NotFoundError for a learner, ConfigError for a baseline, that no data set could have or is unusable."""
    for name in learners:
        find_recipe(name)
    for name in baselines:
        if BASELINES.get(name) is None:
            raise ConfigError(f"no baseline '{name}'; there are {', '.join(BASELINES)}")


def learners_serving(data: Dataset, names: Sequence[str] | None) -> list[str] | None:
    """Recipes of those named whose learner serves the objective; None, for all that do, stays None.

    Raises ConfigError where none of several does.
    """
    return _serving(names, lambda name: is_applicable(recipe_for(name, data), data), data)


def baselines_serving(data: Dataset, names: Sequence[str] | None) -> list[str] | None:
    """Baselines of those named that serve the objective; None, for all that do, stays None.

    Raises ConfigError where none of several does.
    """
    return _serving(names, lambda name: data.schema.objective in BASELINES[name].objectives, data)


def _serving(names: Sequence[str] | None, serves: Callable[[str], bool], data: Dataset) -> list[str] | None:
    if names is None:
        return None
    serving = [name for name in names if serves(name)]
    if names and not serving:
        raise ConfigError(f"none of {', '.join(names)} serves a {data.schema.objective}")
    return serving
