"""The Python API, `import recsys_meta as rm`: what the commands do, as functions, for notebooks and programs.

A run, a model or a data set that one of them makes is there for the other too: both work in RECSYS_META_HOME. Errors
are `recsys_meta.core.errors.RecsysMetaError`, with one line that says what to do.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import pandas as pd

from pipelines.batch.event_files import read_events
from pipelines.commands.compare import run_comparison
from pipelines.commands.evaluate import measure_bundle, store_evaluation
from pipelines.commands.model_publication import publish_run
from pipelines.commands.stage_progress import StageProgress
from pipelines.commands.train import StepProgress, device_name
from pipelines.console import progress_bar
from pipelines.experiments.comparison import Comparison
from pipelines.experiments.comparison_run import recipe_for
from pipelines.experiments.evaluation_protocol import EvaluationProtocol
from pipelines.experiments.training_inputs import source_of, training_inputs
from pipelines.experiments.training_run import TrainingResult, resume_run, train_run
from pipelines.workspace import Workspace
from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError, DataError
from recsys_meta.core.schema import Schema
from recsys_meta.data import SOURCES
from recsys_meta.data.readers.raw_tables import OnError
from recsys_meta.data.sources.frames import make_schema, prepare_frames, write_frame
from recsys_meta.inference.one_shot import recommend as recommend_once
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction, QueryContext
from recsys_meta.models.bundle import Bundle
from recsys_meta.training.recipe import recipe_of

_LOG = logging.getLogger(__name__)

Events = pd.DataFrame | Sequence[str | tuple[str, float]]
"""What an entity did: names of items, or pairs of an item and a label, or a frame with the columns of the data."""


@dataclass(frozen=True)
class PreparedData:
    """Prepared data set and the folder it lies in; `source` is its name or folder in commands."""

    data: Dataset
    folder: Path
    source: str

    def __repr__(self) -> str:
        events, schema = self.data.events, self.data.schema
        return (
            f"PreparedData({schema.name!r}, {schema.objective}: {len(events):,} events of {events.entity_count:,} "
            f"entities, {self.folder})"
        )


def load(name: str | Path) -> PreparedData:
    """Open a data set by name (`recsys-meta data list`), by the folder of a prepared one, or by a TOML schema, which is
    prepared. Raises ConfigError for an unknown name, DataError for wrong data."""
    data, folder = Workspace().dataset(str(name))
    return PreparedData(data, folder, source_of(str(name), folder))


def prepare(
    events: pd.DataFrame,
    schema: Schema | Mapping[str, Any] | str | Path,
    *,
    items: pd.DataFrame | None = None,
    entities: pd.DataFrame | None = None,
    title: str | None = None,
    on_error: OnError = "fail",
) -> PreparedData:
    """Prepare a data set from pandas frames, under the name of its schema, and open it.

    The schema is a `Schema`, a TOML schema (docs/data.md) or a mapping laid out like one. Without frames of items or
    entities their features are columns of the events; `title` is the column of items with names for display. A data set
    of this name is replaced. Raises ConfigError for a wrong schema, DataError, with frame and row, for wrong data.
    """
    if on_error not in get_args(OnError):
        raise ConfigError(f"on_error is {' or '.join(get_args(OnError))}, not {on_error!r}")
    checked = make_schema(schema)
    if checked.name in SOURCES:
        raise ConfigError(f"'{checked.name}' is a data set that comes with the project; give the schema another name")
    folder = Workspace().settings.prepared / checked.name
    data = prepare_frames(checked, folder, events, items, entities, title=title, on_error=on_error)
    for warning in data.warnings:
        _LOG.warning("%s: %s", checked.name, warning)
    return PreparedData(data, folder, str(folder.resolve()))


def train(
    data: PreparedData | str,
    recipe: str | Path | Mapping[str, Any] = "flagship",
    *,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    split: str = "seed",
    scenario: str = "new",
    device: str = "cpu",
    threads: int | None = None,
) -> TrainingResult:
    """Meta-train a recipe, with a progress bar, metrics in SQL and checkpoints, and return the run.

    `recipe` is a name, a .toml file or a mapping laid out like one; `settings` replaces keys of it, as
    {"train.epochs": 10} (`recsys-meta recipes show`). Ctrl-C stops between two steps, with a checkpoint, and raises an
    error that names the run, with which `resume` goes on. Raises ConfigError, DataError as the command does.
    """
    prepared = _prepared(data)
    inputs = training_inputs(prepared.data, prepared.source, scenario=scenario, split=split, seed=seed)
    overrides = _overrides(settings)
    if isinstance(recipe, Mapping):
        run_recipe = recipe_of(recipe, overrides)
    else:
        run_recipe = recipe_for(str(recipe), prepared.data, overrides)
    with progress_bar() as progress, StageProgress(progress) as stages:
        result = train_run(
            Workspace(),
            run_recipe,
            inputs,
            device=device_name(device),
            threads=threads,
            report=StepProgress(progress, run_recipe.name, stages),
            notify=stages.note,
        )
    return _with_warnings(result)


def resume(run: str) -> TrainingResult:
    """Go on with a run that was stopped, from its last checkpoint. Raises NotFoundError, CheckpointError."""
    with progress_bar() as progress, StageProgress(progress) as stages:
        return _with_warnings(resume_run(Workspace(), run, StepProgress(progress, run, stages), stages.note))


def _overrides(settings: Mapping[str, Any] | None) -> list[str]:
    """Settings as --set has them."""
    return [f"{key}={_toml_value(key, value)}" for key, value in (settings or {}).items()]


def _toml_value(key: str, value: Any) -> str:
    """Write a setting as TOML has it, which for numbers, texts and lists is JSON; numbers of NumPy too."""
    try:
        return json.dumps(value, ensure_ascii=False, default=lambda number: number.item())
    except (TypeError, ValueError, AttributeError):
        raise ConfigError(f"settings: {key}: {value!r} is no number, text, true or false, or list of these") from None


def _with_warnings(result: TrainingResult) -> TrainingResult:
    for warning in result.warnings:
        _LOG.warning("%s", warning)
    return result


def _prepared(data: PreparedData | str) -> PreparedData:
    return data if isinstance(data, PreparedData) else load(data)


def evaluate(
    model: TrainingResult | Bundle | str, baselines: Sequence[str] = (), *, data: PreparedData | str | None = None
) -> pd.DataFrame:
    """Evaluate on new entities at each number of shots, beside the simplest baseline and others by name.

    The curves are stored, as the command stores them. Returns a row for each method, number of shots and metric:
    method, shots, metric, value, and the ends of its 95% interval, low and high. `data` is needed where the data set is
    neither a run's nor known by name. Raises CheckpointError for another data set than the model was trained on,
    ConfigError for an unknown baseline.
    """
    workspace = Workspace()
    source = _prepared(data).source if data is not None else None
    if source is None and isinstance(model, TrainingResult):
        source = model.spec.dataset
    names = ",".join(baselines) or "none"
    result = measure_bundle(workspace, _bundle(workspace, model), baselines=names, dataset=source)
    is_named = isinstance(model, str) and not workspace.is_bundle(model)
    name = str(model).partition("@")[0] if is_named else None
    store_evaluation(workspace, result, name, _bundle_folder(workspace, model))
    return _points(result)


def compare(
    data: PreparedData | str,
    learners: Sequence[str] | None = None,
    baselines: Sequence[str] | None = None,
    *,
    seeds: int = 3,
    shots: Sequence[int] | None = None,
    split: str = "seed",
    newcomers: int | None = None,
    settings: Mapping[str, Any] | None = None,
    threads: int | None = None,
    reuse: bool = False,
) -> pd.DataFrame:
    """Train learners and tune baselines for each of `seeds` seeds, and evaluate all on the same new entities.

    None takes the usual learners, or all baselines, that serve the objective; `settings` replaces keys of every recipe;
    `newcomers` bounds how many entities are evaluated; `reuse` takes finished runs that a training would repeat.
    Returns the mean over seeds as `evaluate` does, and stores it as the command does. A method that fails is left out,
    with a warning in the log, unless every one does. Raises ConfigError for unknown names.
    """
    prepared = _prepared(data)
    protocol = EvaluationProtocol(None if shots is None else tuple(shots), split, newcomers=newcomers)
    results = run_comparison(
        Workspace(),
        prepared.source,
        learners=learners,
        baselines=baselines,
        protocol=protocol,
        seeds=tuple(range(seeds)),
        overrides=_overrides(settings),
        threads=threads,
        reuse=reuse,
        keep_going=True,
    )
    for failure in results[0].failures:
        _LOG.warning("%s failed, seed %d: %s", failure.method, failure.seed, failure.reason)
    return _points(results[0])


def _points(result: Comparison) -> pd.DataFrame:
    """Frame of the mean over seeds of every method, number of shots and metric."""
    columns = ["method", "shots", "metric", "value", "low", "high"]
    return pd.DataFrame([row.__dict__ for row in result.evaluations() if row.seed is None], columns=columns)


def publish(run: TrainingResult | str, name: str | None = None, *, stage: bool = False, force: bool = False) -> str:
    """Publish a finished run, so that servers answer with it; return NAME@VERSION.

    `stage` registers it without making it live, `force` leaves the comparison with the simplest baseline out. Raises
    ConflictError for a version that loses to it, ConfigError for a wrong name.
    """
    run_id = run.spec.id if isinstance(run, TrainingResult) else run
    model, version = publish_run(Workspace(), run_id, name, stage=stage, force=force)
    return f"{model}@{version}"


@dataclass(frozen=True)
class AdaptedEntity:
    """Entity that a model has been adapted to."""

    recommender: Recommender
    request: EntityRequest

    @cached_property
    def state(self) -> Mapping[str, Any]:
        """State of the entity: tensors whose first dimension is 1."""
        return self.recommender.adapt([self.recommender.read_support(self.request)])

    def recommend(
        self,
        n: int = 10,
        *,
        candidates: Sequence[str] | None = None,
        context: Mapping[str, object] | None = None,
        actor: str | None = None,
    ) -> pd.DataFrame:
        """Return the n best items, or the best of some candidates, with scores and titles: rank, item, score, title.

        Raises DataError for a context that the model cannot read.
        """
        query = None if context is None and actor is None else QueryContext(context or {}, actor)
        items = recommend_once(self.recommender, self.request, n, candidates, query).items
        rows = [(rank, item.item, item.score, item.title) for rank, item in enumerate(items, 1)]
        return pd.DataFrame(rows, columns=["rank", "item", "score", "title"])


def adapt(
    model: TrainingResult | Bundle | Recommender | str,
    events: Events = (),
    features: Mapping[str, object] | None = None,
) -> AdaptedEntity:
    """Adapt a model to an entity from its events and features.

    `model` is a run, NAME, NAME@VERSION, the folder of a bundle, or a `Recommender`, which is not loaded again for the
    next entity. Raises DataError for events or features that the model cannot read.
    """
    recommender = model if isinstance(model, Recommender) else Recommender(_bundle(Workspace(), model))
    entity = AdaptedEntity(recommender, EntityRequest(features or {}, _interactions(recommender, events)))
    _ = entity.state
    return entity


def recommend(
    model: TrainingResult | Bundle | Recommender | str,
    events: Events = (),
    n: int = 10,
    features: Mapping[str, object] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Adapt to an entity and return its n best items; see `adapt` and `AdaptedEntity.recommend`."""
    return adapt(model, events, features).recommend(n, **options)


def _bundle(workspace: Workspace, model: TrainingResult | Bundle | str) -> Bundle:
    if isinstance(model, Bundle):
        return model
    return model.bundle if isinstance(model, TrainingResult) else workspace.bundle(model)


def _bundle_folder(workspace: Workspace, model: TrainingResult | Bundle | str) -> Path | None:
    """Return the folder of a bundle; None for one in memory."""
    if isinstance(model, TrainingResult):
        return model.bundle_folder
    return workspace.bundle_folder(model) if isinstance(model, str) else None


def _interactions(recommender: Recommender, events: Events) -> list[Interaction]:
    if isinstance(events, pd.DataFrame):
        return _frame_events(recommender, events)
    if isinstance(events, str):
        raise DataError(f"{events!r} is a text, not a list of items", field="events", remedy="Write [item, ...]")
    return [Interaction(e) if isinstance(e, str) else Interaction(str(e[0]), float(e[1])) for e in events]


def _frame_events(recommender: Recommender, frame: pd.DataFrame) -> list[Interaction]:
    """Read a frame as the file that it would be. Raises DataError that names the row."""
    if frame.empty:
        return []
    with TemporaryDirectory() as folder:
        path = Path(folder) / "events.parquet"
        try:
            write_frame(frame, path)
            return read_events(path, recommender.reader.fields, recommender.bundle.schema)
        except DataError as error:
            problem, line, field = error.problem, error.line, error.field
            raise DataError(problem, file="frame of events", line=line, field=field, remedy=error.remedy) from None
