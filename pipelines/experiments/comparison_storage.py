"""Storage of a comparison: points, paired tests and newcomers in SQL, and every newcomer as Parquet."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pipelines.experiments.comparison import Comparison
from pipelines.experiments.newcomer_results import sampled_results, write_newcomer_results
from pipelines.experiments.run_archive import write_run_archive
from pipelines.workspace import Workspace
from recsys_meta.store.entities.newcomer_results import save_newcomer_results
from recsys_meta.store.model_registry.bundle_files import newcomers_file
from recsys_meta.store.tracking.evaluations import NewEvaluation, save_evaluations
from recsys_meta.store.tracking.paired_tests import save_paired_tests

_LOG = logging.getLogger(__name__)


def store_comparison(
    workspace: Workspace,
    results: Sequence[Comparison],
    model: str | None = None,
    bundles: Mapping[int, Path] | None = None,
) -> None:
    """Store the comparisons of one command, those of a published model under its name.

    All rows share their time, by which what belongs together is found; one seed is one row. `bundles` are the folders
    of the first learner's bundles by seed: beside each the results of its newcomers are written. Runs that were
    measured are archived anew, so that their figures follow them into another database.
    """
    points = [_of_model(row, model) for result in results for row in result.evaluations() if not _is_repeated(row)]
    tests = [test for result in results for test in result.tests]
    newcomers = [row for result in results for row in sampled_results(result)]
    for seed, folder in (bundles or {}).items():
        measured = [result for result in results if seed in result.newcomers]
        if measured:
            try:
                write_newcomer_results(measured, seed, newcomers_file(folder))
            except OSError as error:  # the bundle may lie where only its owner writes
                _LOG.warning("%s cannot be written: %s", newcomers_file(folder), error.strerror or error)
    now = datetime.now(UTC)
    with workspace.session() as session:
        save_evaluations(session, points, now)
        save_paired_tests(session, tests, now)
        save_newcomer_results(session, newcomers, now)
    for run in sorted({row.run for row in points if row.run is not None}):
        write_run_archive(workspace, run)


def _is_repeated(row: NewEvaluation) -> bool:
    """Return whether a row is the mean over one seed, which the row of that seed says already."""
    return row.seed is None and row.seeds == 1


def _of_model(row: NewEvaluation, model: str | None) -> NewEvaluation:
    return replace(row, model=model) if row.model_version is not None else row
