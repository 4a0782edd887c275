"""Specification of a training run: what it is made from, as it is written beside it."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.experiments.training_inputs import TrainingInputs, training_inputs
from pipelines.workspace import Workspace
from recsys_meta.core.errors import CheckpointError, NotFoundError
from recsys_meta.core.folder_lock import folder_lock
from recsys_meta.core.json_text import dump_json
from recsys_meta.training.recipe import Recipe, recipe_of


@dataclass(frozen=True)
class RunSpec:
    """Specification of a run, written to run.json before the first step; a resume needs nothing else.

    `warm_start` is the folder of the bundle whose parameters it started from, empty where it started anew.
    """

    id: str
    recipe: Recipe
    dataset: str
    digest: str
    seed: int
    device: str
    threads: int
    split: str = "seed"
    scenario: str = "new"
    warm_start: str = ""

    def dump(self) -> str:
        """The specification as JSON."""
        content = {k: v for k, v in self.__dict__.items() if k != "warm_start" or v}
        return dump_json({**content, "recipe": self.recipe.model_dump(mode="json")}, indent=1)

    @classmethod
    def parse(cls, text: str, where: str) -> RunSpec:
        """Read a specification from JSON. Raises CheckpointError that names `where` if it is damaged."""
        try:
            content: dict[str, Any] = json.loads(text)
            return cls(**{**content, "recipe": recipe_of(content["recipe"], where=where)})
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{where}: damaged ({type(error).__name__})") from None

    def folder(self, workspace: Workspace) -> Path:
        """Folder of the run's files."""
        return workspace.settings.runs / self.id


def read_run_spec(workspace: Workspace, run_id: str) -> RunSpec:
    """Read the specification of a run. Raises NotFoundError, or CheckpointError if run.json is damaged."""
    path = workspace.settings.runs / run_id / "run.json"
    if Path(run_id).name != run_id or not path.is_file():
        raise NotFoundError(f"no run '{run_id}' under {workspace.settings.runs}; `recsys-meta runs list` shows them")
    return RunSpec.parse(path.read_text(), str(path))


def open_run_inputs(workspace: Workspace, spec: RunSpec) -> TrainingInputs:
    """Open the data of a run and build its inputs. Raises CheckpointError if it was made from other data."""
    data, _ = workspace.dataset(spec.dataset)
    if data.digest != spec.digest:
        raise CheckpointError(f"run {spec.id} was made from other data than {spec.dataset} holds now")
    return training_inputs(data, spec.dataset, scenario=spec.scenario, split=spec.split, seed=spec.seed)


def run_lock(workspace: Workspace, spec: RunSpec) -> AbstractContextManager[None]:
    """Keep others from training the run: two at once would write over each other's checkpoints."""
    return folder_lock(spec.folder(workspace), f"run {spec.id} is being trained by another process; wait until it ends")
