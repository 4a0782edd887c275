"""Origin of a measured method: the run that trained it, its recipe, and the digest of its settings."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.experiments.run_spec import RunSpec, read_run_spec
from pipelines.workspace import Workspace
from recsys_meta.core.errors import RecsysMetaError
from recsys_meta.core.json_text import to_json
from recsys_meta.store.model_registry.registry import run_of_version
from recsys_meta.store.tracking.runs import config_digest

if TYPE_CHECKING:
    from recsys_meta.evaluation.baseline_tuning import TuningReport


@dataclass(frozen=True)
class MethodOrigin:
    """Run, recipe and digest of the settings of a method; None for what is not known, or not one."""

    run: str | None = None
    recipe: str | None = None
    config_digest: str | None = None


UNKNOWN = MethodOrigin()


def common_origin(origins: Collection[MethodOrigin]) -> MethodOrigin:
    """Return what several origins have in common: seeds of one recipe are of one recipe, and of several runs."""
    runs, recipes, digests = ({getattr(o, name) for o in origins} for name in ("run", "recipe", "config_digest"))
    return MethodOrigin(*(values.pop() if len(values) == 1 else None for values in (runs, recipes, digests)))


def origin_of_run(spec: RunSpec) -> MethodOrigin:
    """Return the origin of what a run trained."""
    return MethodOrigin(spec.id, spec.recipe.name, config_digest(spec.recipe.model_dump(mode="json")))


def origin_of_bundle(workspace: Workspace, version: str, recipe: str) -> MethodOrigin:
    """Return the origin of a bundle by its version: the run that it was published from, or in whose folder it lies.

    Of a bundle that came from elsewhere its recipe alone is known.
    """
    with workspace.reading() as session:
        run = run_of_version(session, version)
    if run is None:
        folders = sorted(workspace.settings.runs.glob(f"*/bundle/{version}"))
        run = folders[-1].parents[1].name if folders else None
    try:
        return MethodOrigin(recipe=recipe) if run is None else origin_of_run(read_run_spec(workspace, run))
    except RecsysMetaError:  # its folder is gone, or of another machine
        return MethodOrigin(run, recipe)


def origin_of_baseline(report: TuningReport) -> MethodOrigin:
    """Return the origin of a tuned baseline, which no run trained: the digest of what was chosen at each point."""
    settings = {str(choice.shots): to_json(choice.setting) for choice in report.choices}
    return MethodOrigin(config_digest=config_digest({"baseline": report.baseline, "settings": settings}))
