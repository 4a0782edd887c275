"""Finished runs that a comparison takes instead of training once more."""

from __future__ import annotations

from contextlib import suppress

from pipelines.experiments.run_spec import RunSpec, read_run_spec
from pipelines.experiments.training_inputs import TrainingInputs
from pipelines.experiments.training_run import TrainingResult, fitting_recipe
from pipelines.workspace import Workspace
from recsys_meta import __version__
from recsys_meta.core.errors import RecsysMetaError
from recsys_meta.models.bundle import load_bundle
from recsys_meta.store.tracking.runs import finished_runs
from recsys_meta.training.recipe import Recipe
from recsys_meta.training.regularization_race import settled_recipe


def finished_run(workspace: Workspace, recipe: Recipe, inputs: TrainingInputs, threads: int) -> TrainingResult | None:
    """Return the newest finished run that training the recipe would repeat; None where there is none.

    Same recipe (after its race, with any of the raced settings), data, split, scenario, seed, threads and version of
    the code, on the CPU, from fresh parameters; its bundle is whole. Its seconds are without the race. Members that the
    run left out are not told.
    """
    whole = fitting_recipe(recipe, inputs)
    candidates = [settled_recipe(whole, dict(setting)) for setting in whole.race.settings] or [whole]
    with workspace.reading() as session:
        rows = finished_runs(session, recipe.name, inputs.data.schema.name, inputs.seed, __version__)
        earlier = [(row.id, (row.finished - row.started).total_seconds()) for row in rows if row.finished is not None]
    for run, seconds in earlier:
        # A run whose files are gone, or that an older version wrote, is trained again.
        with suppress(RecsysMetaError, OSError):
            spec = read_run_spec(workspace, run)
            if spec.recipe in candidates and _is_same(spec, inputs, threads):
                return _result(workspace, spec, seconds)
    return None


def _is_same(spec: RunSpec, inputs: TrainingInputs, threads: int) -> bool:
    """True if a run is of these inputs, and of what decides beside them."""
    ours = (inputs.data.digest, inputs.split_by, inputs.scenario, inputs.seed, "cpu", threads, "")
    return ours == (spec.digest, spec.split, spec.scenario, spec.seed, spec.device, spec.threads, spec.warm_start)


def _result(workspace: Workspace, spec: RunSpec, seconds: float) -> TrainingResult | None:
    """Result of a finished run from its files; None without a bundle."""
    folder = spec.folder(workspace)
    for place in sorted((folder / "bundle").glob("*/bundle.json")):
        bundle = load_bundle(place.parent)
        metrics = bundle.about["metrics"]
        return TrainingResult(spec, folder, metrics["steps"], seconds, 0, metrics["valid"], "", bundle)
    return None
