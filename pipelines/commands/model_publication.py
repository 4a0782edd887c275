"""Publication of a model: a finished run becomes a version, which is tried and weighed before it may go live.

What loads a bundle is imported where that happens: listing models needs no torch.
"""

from __future__ import annotations

import re
from typing import Any

from pipelines.console import err
from pipelines.workspace import Workspace
from recsys_meta.core.errors import CheckpointError, ConfigError, ConflictError, RecsysMetaError
from recsys_meta.store.access.audit_log import record_action
from recsys_meta.store.model_registry.registry import check_beats_baseline, publish_version, register_version
from recsys_meta.store.tracking.evaluations import copy_evaluations
from recsys_meta.store.tracking.promotion_gate import check_promotion

ACTOR = "command line"
NAME = re.compile(r"(?!\.+$)[A-Za-z0-9_.\-]+")
"""Model names that a URL and a folder can both hold."""


def publish_run(
    workspace: Workspace,
    run: str,
    name: str | None = None,
    *,
    stage: bool = False,
    force: bool = False,
    end_split: bool = False,
) -> tuple[str, str]:
    """Copy a finished run's bundle into the registry with its evaluations, and make it live unless it is only to be
    staged; return (model, version). Into a database that does not know the run it comes along, from its archive.

    A version that was not evaluated is evaluated first, beside the simplest baseline. Raises CheckpointError if the run
    has not finished or its model fails when it is tried, ConfigError for an invalid name, ConflictError for a version
    that loses to the simplest baseline, or cannot be evaluated, unless forced, and for one that would end a split of
    others, unless `end_split`: the version is staged then.
    """
    from pipelines.experiments.run_archive import restore_run
    from pipelines.experiments.run_spec import read_run_spec
    from recsys_meta.inference.model_trial import try_bundle
    from recsys_meta.models.bundle import load_bundle, save_bundle

    if name and not NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name for a model: letters, digits, '_', '.' and '-' only, not dots alone")
    spec = read_run_spec(workspace, run)
    bundle_folders = sorted((spec.folder(workspace) / "bundle").glob("[0-9a-f]*"))
    if not bundle_folders:
        raise CheckpointError(f"run {run} has not finished; `recsys-meta train --resume {run}` continues it")
    bundle = load_bundle(bundle_folders[-1])
    try_bundle(bundle)
    model = name or f"{spec.recipe.name}-{bundle.schema.name}"
    target = save_bundle(bundle, workspace.settings.models.resolve() / model)
    version, path = target.name, str(target)
    metrics: dict[str, Any] = dict(bundle.about.get("metrics", {}))
    # A run that left no archive is published too, without a reference to its metrics.
    known_run = run if restore_run(workspace, run) else None
    with workspace.session() as session:
        register_version(session, model, version, path, run=known_run, metrics=metrics)
        copy_evaluations(session, bundle.version, model, version)
        if stage:
            record_action(session, "stage", f"{model}@{version}", actor=ACTOR)
    if stage:
        return model, version
    if not force:
        check_quality(workspace, model, version)
    with workspace.session() as session:
        publish_version(session, model, version, path, run=known_run, metrics=metrics, actor=ACTOR, end_split=end_split)
        record_action(session, "publish", f"{model}@{version}", actor=ACTOR)
    return model, version


def check_quality(workspace: Workspace, model: str, version: str) -> None:
    """Raise ConflictError for a version that loses to the simplest baseline; one that was never evaluated is now."""
    from pipelines.commands.evaluate import evaluate_version

    with workspace.reading() as session:
        is_evaluated = check_promotion(session, model, version) is not None
    if not is_evaluated:
        err.print(f"[dim]{model}@{version} was never evaluated: evaluating it beside the simplest baseline[/]")
        try:
            evaluate_version(workspace, model, version)
        except RecsysMetaError as error:
            raise ConflictError(
                f"{model}@{version} was never evaluated, and cannot be now: {error}; it is registered and not live. "
                "Force it if you mean it (--force)"
            ) from None
    with workspace.reading() as session:
        check_beats_baseline(session, model, version)


def try_version(workspace: Workspace, model: str, version: str) -> None:
    """Raise CheckpointError for a version that cannot be loaded, or fails when it is tried."""
    from recsys_meta.inference.model_trial import try_bundle

    try:
        try_bundle(workspace.bundle(f"{model}@{version}"))
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{model}@{version} may not go live: {error}") from None
