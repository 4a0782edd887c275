"""Comparison of learners and baselines on the same episodes: a curve for each method and seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.experiments.comparison import Comparison, MethodCost, MethodCurves
from pipelines.experiments.comparison_storage import store_comparison
from pipelines.experiments.evaluation_protocol import FLAGSHIPS, EvaluationProtocol, split_name
from pipelines.experiments.finished_runs import finished_run
from pipelines.experiments.meta_validation import VALIDATION_ROWS
from pipelines.experiments.method_cost import greatest_episodes, mean_cost, method_cost
from pipelines.experiments.method_failures import MethodFailures
from pipelines.experiments.method_origin import MethodOrigin, origin_of_baseline, origin_of_run
from pipelines.experiments.process_timer import ProcessTimer
from pipelines.experiments.recipe_learner import learner_of
from pipelines.experiments.thread_count import default_threads, fixed_threads
from pipelines.experiments.training_inputs import TrainingInputs, source_of, training_inputs
from pipelines.experiments.training_run import TrainingResult, train_run
from pipelines.experiments.tuned_baselines import TunedBaselines, baselines_for
from pipelines.workspace import Workspace, find_recipe, recipe_names
from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import IntArray, Params
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.evaluation.baseline_tuning import TunedBaseline, TuningReport, edge_warnings
from recsys_meta.evaluation.cold_start import UnadaptedPredictor, adaptation_effect, cold_start, episodes_at
from recsys_meta.evaluation.curve import ColdStartCurve
from recsys_meta.evaluation.evaluate_batch import EvalOptions, is_row_metric, metric_names
from recsys_meta.evaluation.newcomers import Newcomers, describe_newcomers, item_popularity
from recsys_meta.models.bundle import Bundle
from recsys_meta.models.learners import LEARNERS as LEARNER_CLASSES
from recsys_meta.models.protocols import Predictor
from recsys_meta.store.tracking.evaluations import Role
from recsys_meta.store.tracking.promotion_gate import SIMPLEST_BASELINES
from recsys_meta.training.recipe import Recipe
from recsys_meta.training.trainer import TrainStep

LEARNERS = (*FLAGSHIPS, "maml", "fomaml", "melu", "meta-embedding", "mwuf", "cvar", "din", "maml-din", "haml", "chaml")
NEGATIVES, FULL_RANKING_ROWS = 100, 300
"""Scenario "actors": random others that a choice is ranked among, and most query rows of an entity, a fixed random
part, that are ranked among the whole catalog."""


Notify = Callable[[str], None]
OnStep = Callable[[str, TrainStep], None]


def compare(
    workspace: Workspace,
    dataset: str,
    *,
    learners: Sequence[str] | None = None,
    baselines: Sequence[str] | None = None,
    protocol: EvaluationProtocol,
    seeds: Sequence[int] = (0, 1, 2),
    overrides: Sequence[str] = (),
    threads: int | None = None,
    label: str | None = None,
    reuse: bool = False,
    keep_going: bool = False,
    notify: Notify = lambda _: None,
    on_step: OnStep = lambda *_: None,
) -> list[Comparison]:
    """Train every learner and tune every baseline for each seed, and evaluate all on the same meta-test episodes.

    None takes all learners, or baselines, that serve the objective; `label` names the data set in the results (None:
    by its schema); `reuse` takes finished runs that a training would repeat, see `finished_run`. With `keep_going` a
    method whose training or evaluation fails is left out and among the `failures`, unless every one does. Returns a
    comparison for each scenario of the protocol and stores their evaluations in SQL. Raises ConfigError, before
    anything is trained, for unknown names and for learners that do not serve the objective.
    """
    data, folder = workspace.dataset(dataset)
    source = source_of(dataset, folder)
    baseline_names = baselines_for(data, baselines)
    recipes = recipes_for(data, learners, overrides)
    _ = [learner_of(recipe, data) for recipe in recipes]  # for their errors alone
    failures = MethodFailures(keep_going, notify)
    builders: dict[str, _ComparisonBuilder] = {}
    bundles: dict[int, Path] = {}
    shots = protocol.points(data)
    for seed in seeds_for(data, protocol, seeds):
        inputs = training_inputs(data, source, scenario=protocol.sampling, split=protocol.split, seed=seed)
        setups = _evaluation_setups(inputs, protocol)
        for setup in setups:
            builder = _ComparisonBuilder(data, setup.scenario, shots, label, split_name(data, protocol.split))
            builders.setdefault(setup.scenario, builder)

        def notify_seed(text: str, seed: int = seed) -> None:
            notify(f"seed {seed}: {text}")

        tuned = TunedBaselines(inputs, notify_seed)
        for recipe in (r for r in recipes if r.name not in failures):
            with failures.catch(recipe.name, seed):
                training, timer = _train_or_reuse(
                    workspace, recipe, inputs, tuned, notify_seed, on_step, threads=threads, reuse=reuse
                )
                notify_seed(f"evaluating {recipe.name}")
                with fixed_threads(threads or default_threads()):
                    for setup in setups:
                        builders[setup.scenario].learner(setup, recipe, training, timer, first=recipe is recipes[0])
                bundles.setdefault(seed, training.bundle_folder)
        for name in (n for n in baseline_names if n not in failures):
            with failures.catch(name, seed), fixed_threads(threads or default_threads()):
                baseline = tuned.tune(name, shots, protocol.order)
                notify_seed(f"evaluating {name}")
                for setup in setups:
                    builders[setup.scenario].baseline(
                        setup, name, baseline, tuned.time_taken(name, shots, protocol.order)
                    )
    notify("paired tests, and storing results")
    results = [builder.comparison(failures) for builder in builders.values()]
    failures.require_some(min(len(result.methods) for result in results))
    store_comparison(workspace, results, bundles=bundles)
    return results


def _train_or_reuse(
    workspace: Workspace,
    recipe: Recipe,
    inputs: TrainingInputs,
    tuned: TunedBaselines,
    notify: Notify,
    on_step: OnStep,
    *,
    threads: int | None,
    reuse: bool,
) -> tuple[TrainingResult, ProcessTimer]:
    """Train a recipe, or take a finished run that did the same, and say how long that took; warnings are notified."""
    earlier = finished_run(workspace, recipe, inputs, threads or default_threads()) if reuse else None
    if earlier is not None:
        notify(f"{recipe.name}: run {earlier.spec.id} is taken")
        training, timer = earlier, ProcessTimer.load(earlier.folder) or ProcessTimer(earlier.seconds)
    else:
        notify(f"training {recipe.name}")
        with ProcessTimer() as timer:
            training = train_run(
                workspace,
                recipe,
                inputs,
                threads=threads,
                tuned=tuned,
                report=lambda step: on_step(recipe.name, step),
                notify=notify,
                measure=False,
            )
        timer.save(training.folder)
    for warning in training.warnings:
        notify(f"{recipe.name}: {warning}")
    return training, timer


def seeds_for(data: Dataset, protocol: EvaluationProtocol, seeds: Sequence[int]) -> list[int]:
    """Seeds of the trainings: in a cross-validation one for each part of each repetition."""
    folds = data.schema.folds if protocol.split == "seed" else 0
    return [seed * folds + part for seed in seeds for part in range(folds)] if folds else list(seeds)


class _ComparisonBuilder:
    """Builder of a comparison from the curves of its methods."""

    def __init__(self, data: Dataset, scenario: str, shots: tuple[int, ...], label: str | None, split: str) -> None:
        self._result = Comparison(label or data.schema.name, scenario, metric_names(data), shots, split=split)
        self._curves: dict[tuple[str, Role], dict[int, ColdStartCurve]] = {}
        self._notes: dict[str, str] = {}
        self._warnings: dict[str, tuple[str, ...]] = {}
        self._costs: dict[str, list[MethodCost]] = {}
        self._versions: dict[str, dict[int, str]] = {}
        self._origins: dict[str, dict[int, MethodOrigin]] = {}

    def learner(
        self, setup: _EvaluationSetup, recipe: Recipe, training: TrainingResult, timer: ProcessTimer, *, first: bool
    ) -> None:
        bundle = training.bundle
        role: Role = "flagship" if recipe.name in FLAGSHIPS else "learner"
        self._costs.setdefault(recipe.name, []).append(setup.cost(bundle.predictor, bundle.params, timer))
        self._versions.setdefault(recipe.name, {})[setup.inputs.seed] = bundle.version
        origin = origin_of_run(training.spec)
        self._add(setup, recipe.name, role, bundle.predictor, bundle.params, origin)
        if first:
            plain = UnadaptedPredictor(bundle.predictor)
            self._add(setup, f"{recipe.name}-unadapted", "learner", plain, bundle.params, origin)
            self._result.newcomers[setup.inputs.seed] = setup.newcomers()
            if self._result.bundle is None:
                self._result.bundle, self._result.run = bundle, training.spec.id
                self._result.adaptation_effects = setup.adaptation_effects(bundle)

    def baseline(self, setup: _EvaluationSetup, name: str, baseline: TunedBaseline, timer: ProcessTimer) -> None:
        origin = origin_of_baseline(baseline.report)
        self._add(setup, name, "baseline", baseline.predictor, baseline.params, origin)
        self._costs.setdefault(name, []).append(setup.cost(baseline.predictor, baseline.params, timer))
        self._notes[name] = tuning_note(baseline.report)
        self._warnings[name] = (
            *self._warnings.get(name, ()),
            *(f"seed {setup.inputs.seed}: {warning}" for warning in edge_warnings(baseline.report)),
        )

    def _add(
        self, setup: _EvaluationSetup, name: str, role: Role, predictor: Any, params: Any, origin: MethodOrigin
    ) -> None:
        self._origins.setdefault(name, {})[setup.inputs.seed] = origin
        self._curves.setdefault((name, role), {})[setup.inputs.seed] = setup.curve(predictor, params, name)

    def comparison(self, failures: MethodFailures) -> Comparison:
        self._result.failures = tuple(failures)
        for failure in failures:
            self._drop(failure.method)
        self._result.methods = [
            MethodCurves(
                name,
                role,
                curves,
                self._notes.get(name, ""),
                mean_cost(self._costs[name]) if name in self._costs else None,
                self._versions.get(name, {}),
                self._warnings.get(name, ()),
                self._origins.get(name, {}),
            )
            for (name, role), curves in self._curves.items()
        ]
        return self._result

    def _drop(self, name: str) -> None:
        """Drop what there is of a method from seeds with which it did not fail, and what came with its being first."""
        self._curves = {k: v for k, v in self._curves.items() if k[0] not in (name, f"{name}-unadapted")}
        if self._result.bundle is not None and self._result.bundle.about.get("recipe") == name:
            self._result.bundle, self._result.run = None, ""
            self._result.adaptation_effects, self._result.newcomers = {}, {}


@dataclass(frozen=True)
class _EvaluationSetup:
    """One evaluation for learners and baselines alike: everything but the method is fixed.

    `index` and `entities` are the rows and entities evaluated.
    """

    inputs: TrainingInputs
    index: EventIndex
    entities: IntArray
    options: EvalOptions
    scenario: str
    protocol: EvaluationProtocol

    def curve(self, predictor: Any, params: Any, name: str) -> ColdStartCurve:
        curve = cold_start(
            predictor,
            params,
            self.inputs.data,
            self.index,
            self.entities,
            shots=self.protocol.points(self.inputs.data),
            order=self.protocol.order,
            seed=self.inputs.split_seed,
            min_query=self.protocol.min_query,
            options=self.options,
        )
        return ColdStartCurve(name, curve.entities, curve.values)

    def cost(self, predictor: Predictor, params: Params, timer: ProcessTimer) -> MethodCost:
        """Cost of a fitted method on this evaluation's newcomers."""
        points = self.protocol.points(self.inputs.data)
        episodes = greatest_episodes(self.inputs.data, self.index, self.entities, points)
        return method_cost(predictor, params, episodes, timer)

    def newcomers(self) -> Newcomers:
        """Describe the entities that are evaluated; popularity is that among the rows of the training."""
        data, inputs = self.inputs.data, self.inputs
        popularity = item_popularity(data, inputs.train_index, inputs.split.train)
        return describe_newcomers(
            data,
            self.index,
            self.entities,
            popularity,
            shots=self.protocol.points(data),
            order=self.protocol.order,
            seed=inputs.split_seed,
            min_query=self.protocol.min_query,
        )

    def adaptation_effects(self, bundle: Bundle) -> dict[int, tuple[float, float]]:
        """Norm of the state's change and change of the scores for each number of shots, over at most 64 entities."""
        effects = {}
        for k in self.protocol.points(self.inputs.data):
            enough = self.index.has_support(self.entities, k, 1, self.inputs.data.schema.query_from)
            part = self.entities[enough][:64]
            if len(part):
                batch = episodes_at(
                    self.inputs.data, self.index, part, k, VALIDATION_ROWS if is_row_metric(self.inputs.data) else None
                )
                effect = adaptation_effect(bundle.predictor, bundle.params, batch)
                effects[k] = (effect.state, effect.scores)
        return effects


def _evaluation_setups(inputs: TrainingInputs, protocol: EvaluationProtocol) -> list[_EvaluationSetup]:
    """Evaluations of a protocol: one, two of actor episodes, or one for each cell of the warm-cold grid."""
    split, name = inputs.split, protocol.label(inputs.data)
    if inputs.grid is not None:
        return [
            _EvaluationSetup(
                inputs,
                c.index,
                protocol.sample(c.entities, inputs.split_seed),
                EvalOptions(c.item_mask),
                f"{c.scenario}/{name}",
                protocol,
            )
            for c in inputs.grid.cells.values()
        ]
    options = {name: EvalOptions()}
    if protocol.sampling == "actors":
        options = {f"{name}/{NEGATIVES}-negatives": EvalOptions(negatives=NEGATIVES)}
        if protocol.scenario == "actors":
            options[f"{name}/full"] = EvalOptions(rows=FULL_RANKING_ROWS)
    tested = protocol.sample(split.test, inputs.split_seed)
    return [
        _EvaluationSetup(inputs, inputs.index, tested, option, label, protocol) for label, option in options.items()
    ]


def recipes_for(data: Dataset, names: Sequence[str] | None, overrides: Sequence[str] = ()) -> list[Recipe]:
    """Recipes by name; None takes LEARNERS and the learners of installed packages that serve the objective."""
    if names is not None:
        return [recipe_for(name, data, overrides) for name in names]
    available = set(recipe_names())
    plugins = [name for name in LEARNER_CLASSES.usable() if name in LEARNER_CLASSES.plugin_names]
    names = [*(name for name in LEARNERS if name in available), *(name for name in plugins if name not in available)]
    return [r for r in (find_recipe(name, overrides) for name in names) if is_applicable(r, data)]


def every_learner() -> list[str]:
    """Every recipe that comes with the project and every learner of an installed package, whatever objective it serves.

    "flagship" stands for the flagship of each objective, and comes first.
    """
    own = [name for name in recipe_names() if name not in FLAGSHIPS]
    plugins = [name for name in LEARNER_CLASSES.usable() if name in LEARNER_CLASSES.plugin_names]
    return [FLAGSHIPS[0], *dict.fromkeys([*own, *plugins])]


def recipe_for(name: str, data: Dataset, overrides: Sequence[str] = ()) -> Recipe:
    """Recipe by name or file; "flagship" is that of the data set's objective."""
    if name != FLAGSHIPS[0]:
        return find_recipe(name, overrides)
    names = [n for n in FLAGSHIPS if n in recipe_names()]
    recipes = [r for r in (find_recipe(n, overrides) for n in names) if is_applicable(r, data)]
    return recipes[0] if recipes else find_recipe(name, overrides)


def is_applicable(recipe: Recipe, data: Dataset) -> bool:
    """True if a recipe's learner serves the objective of a data set."""
    objectives = getattr(LEARNER_CLASSES.get(recipe.learner), "objectives", None)
    return objectives is None or data.schema.objective in objectives


def tuning_note(report: TuningReport) -> str:
    """One line on the tuning of a baseline: the number of settings. `edge_warnings` says which may be too few."""
    return f"{report.tried} settings tried on meta-validation"


def reference_baseline(data: Dataset) -> str:
    """Baseline that a model must not lose to if it is to be promoted."""
    return next(name for name in baselines_for(data, None) if name in SIMPLEST_BASELINES)
