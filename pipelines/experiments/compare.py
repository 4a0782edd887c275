"""Learners and baselines side by side on the same episodes: one curve a method and seed, rows for SQL and JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.experiments.comparison import Comparison, MethodCurves
from pipelines.experiments.training_run import (
    WATCHED_ROWS,
    TrainingResult,
    default_shots,
    default_threads,
    event_index_for,
    fixed_threads,
    train_run,
)
from pipelines.workspace import Workspace, find_recipe, recipe_names
from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import Order
from recsys_meta.core.types import IntArray
from recsys_meta.episodes.event_index import EventIndex, restrict_to_entities
from recsys_meta.episodes.splits import EntitySplit, split_of
from recsys_meta.episodes.warm_cold_scenarios import four_corners
from recsys_meta.evaluation.baseline_tuning import TunedBaseline, TuningReport, fit_tuned
from recsys_meta.evaluation.cold_start import (
    ColdStartCurve,
    EvalOptions,
    UnadaptedPredictor,
    adaptation_effect,
    cold_start,
    episodes_at,
    metric_names,
)
from recsys_meta.evaluation.evaluate_batch import is_row_metric
from recsys_meta.models.baselines import BASELINES
from recsys_meta.models.bundle import Bundle
from recsys_meta.models.learners import LEARNERS as LEARNER_CLASSES
from recsys_meta.store.tracking import evaluations
from recsys_meta.store.tracking.evaluations import Role
from recsys_meta.store.tracking.promotion_gate import SIMPLEST_BASELINES
from recsys_meta.training.recipe import Recipe
from recsys_meta.training.trainer import TrainStep

FLAGSHIPS = ("flagship", "flagship-click", "flagship-choice")
"""The recipe of the flagship for each objective; asked for by the name of the first."""
LEARNERS = (*FLAGSHIPS, "maml", "fomaml", "melu", "meta-embedding", "mwuf", "cvar", "din", "maml-din", "haml", "chaml")
NEGATIVES, FULL_ROWS = 100, 300
"""Others that the scenario "actors" asks to choose among; and query rows of an entity, a fixed random part, for which
it asks to choose among the whole catalogue."""


Scenario = Literal["new", "corners", "actors", "sampled"]


@dataclass(frozen=True)
class EvaluationProtocol:
    """How newcomers are evaluated; None takes the data set's own. Scenarios: "new" entities on all items, the four
    "corners" of warm and cold, episodes of "actors", or the same with "sampled" others only."""

    shots: tuple[int, ...] | None = None
    split: str = "seed"
    order: Order | None = None
    min_query: int | None = None
    scenario: Scenario = "new"

    def label(self, data: Dataset) -> str:
        """Its name in tables: who is new, and how supports are drawn."""
        order = "actors" if self.drawn == "actors" else self.order or data.schema.order
        kind = data.schema.kind
        many = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
        return f"new-{many}/{order}-support/split-by-{split_name(data, self.split)}"

    @property
    def drawn(self) -> str:
        """How episodes are drawn, while training too."""
        return "actors" if self.scenario == "sampled" else self.scenario

    def points(self, data: Dataset) -> tuple[int, ...]:
        """The numbers of shots."""
        return self.shots or default_shots(data, self.drawn)


def split_name(data: Dataset, split: str) -> str:
    """How entities were split, in a word."""
    schema = data.schema
    if split != "seed":
        return split
    named = {"size": schema.past_rows is not None, "folds": schema.folds > 0, "seed": schema.together is None}
    return next((name for name, so in named.items() if so), str(schema.together))


Tell = Callable[[str], None]
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
    tell: Tell = lambda _: None,
    on_step: OnStep = lambda *_: None,
) -> list[Comparison]:
    """Train every learner and tune every baseline for each seed, and evaluate all on the same meta-test episodes.

    None takes all learners, or baselines, that serve the objective. A comparison for each scenario of the protocol;
    their rows are stored in SQL. Raises ConfigError for unknown names.
    """
    data, folder = workspace.dataset(dataset)
    chosen = baselines_for(data, baselines)
    recipes = recipes_for(data, learners, overrides)
    tables: dict[str, _ComparisonBuilder] = {}
    shots = protocol.points(data)
    for seed in seeds_for(data, protocol, seeds):
        doors = _doors(data, protocol, seed)
        for door in doors:
            tables.setdefault(door.scenario, _ComparisonBuilder(data, door.scenario, shots))
        for recipe in recipes:
            tell(f"seed {seed}: training {recipe.name}")
            trained = train_run(
                workspace,
                recipe,
                str(folder),
                seed=seed,
                threads=threads,
                split=protocol.split,
                scenario=protocol.drawn,
                report=lambda step, name=recipe.name: on_step(name, step),  # type: ignore[misc]
            )
            with fixed_threads(threads or default_threads()):
                for door in doors:
                    tables[door.scenario].learner(door, recipe, trained, first=recipe is recipes[0])
        for name in chosen:
            tell(f"seed {seed}: tuning {name}")
            with fixed_threads(threads or default_threads()):
                tuned = fit_tuned(name, doors[0].known, doors[0].training, doors[0].split, shots, seed, protocol.order)
                for door in doors:
                    tables[door.scenario].baseline(door, name, tuned)
    results = [table.comparison() for table in tables.values()]
    with workspace.session() as session:
        evaluations.save_evaluations(session, [row for result in results for row in result.rows()])
    return results


def seeds_for(data: Dataset, protocol: EvaluationProtocol, seeds: Sequence[int]) -> list[int]:
    """Seeds of the trainings: where entities are cross-validated, one for each part of each repetition."""
    folds = data.schema.folds if protocol.split == "seed" else 0
    return [seed * folds + part for seed in seeds for part in range(folds)] if folds else list(seeds)


class _ComparisonBuilder:
    """A comparison in the making."""

    def __init__(self, data: Dataset, scenario: str, shots: tuple[int, ...]) -> None:
        self._result = Comparison(data.schema.name, scenario, metric_names(data), shots)
        self._curves: dict[tuple[str, Role], dict[int, ColdStartCurve]] = {}
        self._notes: dict[str, str] = {}
        self._seconds: dict[str, float] = {}
        self._versions: dict[str, dict[int, str]] = {}

    def learner(self, door: _EvaluationSetup, recipe: Recipe, trained: TrainingResult, *, first: bool) -> None:
        bundle = trained.bundle
        role: Role = "flagship" if recipe.name in FLAGSHIPS else "learner"
        self._seconds[recipe.name] = max(self._seconds.get(recipe.name, 0.0), trained.seconds)
        self._versions.setdefault(recipe.name, {})[door.seed] = bundle.version
        self._add(door, recipe.name, role, bundle.predictor, bundle.params)
        if first:
            self._add(door, f"{recipe.name}-unadapted", "learner", UnadaptedPredictor(bundle.predictor), bundle.params)
            if self._result.bundle is None:
                self._result.bundle, self._result.run = bundle, trained.plan.id
                self._result.change = door.changes(bundle)

    def baseline(self, door: _EvaluationSetup, name: str, tuned: TunedBaseline) -> None:
        self._add(door, name, "baseline", tuned.predictor, tuned.params)
        self._notes[name] = tuning_note(tuned.report)

    def _add(self, door: _EvaluationSetup, name: str, role: Role, predictor: Any, params: Any) -> None:
        self._curves.setdefault((name, role), {})[door.seed] = door.curve(predictor, params, name)

    def comparison(self) -> Comparison:
        self._result.methods = [
            MethodCurves(
                name,
                role,
                curves,
                self._notes.get(name, ""),
                self._seconds.get(name, 0.0),
                self._versions.get(name, {}),
            )
            for (name, role), curves in self._curves.items()
        ]
        return self._result


@dataclass(frozen=True)
class _EvaluationSetup:
    """The one evaluator that learners and baselines meet, with everything but the method fixed.

    `index` has the rows asked about, `training` those that training and tuning may see, `known` the data set as if
    there were no others.
    """

    data: Dataset
    known: Dataset
    training: EventIndex
    index: EventIndex
    entities: IntArray
    ask: EvalOptions
    split: EntitySplit
    scenario: str
    protocol: EvaluationProtocol
    seed: int

    def curve(self, predictor: Any, params: Any, name: str) -> ColdStartCurve:
        curve = cold_start(
            predictor,
            params,
            self.data,
            self.index,
            self.entities,
            shots=self.protocol.points(self.data),
            order=self.protocol.order,
            seed=self.seed,
            min_query=self.protocol.min_query,
            ask=self.ask,
        )
        return ColdStartCurve(name, curve.entities, curve.values)

    def changes(self, bundle: Bundle) -> dict[int, tuple[float, float]]:
        """Shots -> (norm of the state's change, change of the scores) over up to 64 newcomers."""
        made = {}
        for k in self.protocol.points(self.data):
            enough = self.index.has_support(self.entities, k, 1, self.data.schema.query_from)
            part = self.entities[enough][:64]
            if len(part):
                batch = episodes_at(self.data, self.index, part, k, WATCHED_ROWS if is_row_metric(self.data) else None)
                change = adaptation_effect(bundle.predictor, bundle.params, batch)
                made[k] = (change.state, change.scores)
        return made


def _doors(data: Dataset, protocol: EvaluationProtocol, seed: int) -> list[_EvaluationSetup]:
    """The scenarios of a protocol."""
    index = event_index_for(data, protocol.drawn, seed)
    split = split_of(data, index, protocol.split, seed)
    name = protocol.label(data)
    if protocol.drawn == "actors":
        asks = {f"{name}/{NEGATIVES}-negatives": EvalOptions(negatives=NEGATIVES)}
        if protocol.scenario == "actors":
            asks[f"{name}/full"] = EvalOptions(rows=FULL_ROWS)
        return [
            _EvaluationSetup(data, data, index, index, split.test, a, split, n, protocol, seed) for n, a in asks.items()
        ]
    if protocol.scenario == "new":
        return [_EvaluationSetup(data, data, index, index, split.test, EvalOptions(), split, name, protocol, seed)]
    cut = four_corners(data, index, split, seed=seed)
    known = restrict_to_entities(data, cut.training, split.train)
    return [
        _EvaluationSetup(
            data,
            known,
            cut.training,
            c.index,
            c.entities,
            EvalOptions(c.shown),
            split,
            f"{c.scenario}/{name}",
            protocol,
            seed,
        )
        for c in cut.corners.values()
    ]


def recipes_for(data: Dataset, names: Sequence[str] | None, overrides: Sequence[str] = ()) -> list[Recipe]:
    """Recipes by name; None takes those that come with the project and serve the objective."""
    if names is not None:
        return [recipe_for(name, data, overrides) for name in names]
    known = set(recipe_names())
    return [r for r in (find_recipe(name, overrides) for name in LEARNERS if name in known) if is_applicable(r, data)]


def recipe_for(name: str, data: Dataset, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by name or file; "flagship" is that of the data set's objective."""
    if name != FLAGSHIPS[0]:
        return find_recipe(name, overrides)
    known = [n for n in FLAGSHIPS if n in recipe_names()]
    found = [r for r in (find_recipe(n, overrides) for n in known) if is_applicable(r, data)]
    return found[0] if found else find_recipe(name, overrides)


def is_applicable(recipe: Recipe, data: Dataset) -> bool:
    """Whether a recipe's learner serves the objective of a data set."""
    objectives = getattr(LEARNER_CLASSES.get(recipe.learner), "objectives", None)
    return objectives is None or data.schema.objective in objectives


def tuning_note(report: TuningReport) -> str:
    """How a baseline was tuned, in a line: what was tried, and where the best lay at the edge of what was tried."""
    edges = sorted({e for choice in report.choices for e in choice.edges})
    return f"{report.tried} settings tried on meta-validation" + (f"; at an edge: {', '.join(edges)}" if edges else "")


def reference_baseline(data: Dataset) -> str:
    """The baseline that a model must not lose to, if it is to go live."""
    return next(name for name in baselines_for(data, None) if name in SIMPLEST_BASELINES)


def _idle(name: str, data: Dataset) -> bool:
    """Whether a baseline would be popularity over again, for want of what it looks at."""
    wanted = {"recent": data.schema.arrival, **dict.fromkeys(("context", "position"), bool(data.schema.context))}
    return not wanted.get(name, True)


def baselines_for(data: Dataset, names: Sequence[str] | None) -> list[str]:
    """Baselines that serve the objective; raises ConfigError for a name that does not exist or does not serve."""
    fitting = [n for n, c in BASELINES.items() if data.schema.objective in c.objectives]
    if names is None:
        return [n for n in fitting if not _idle(n, data)]
    for name in names:
        if name not in fitting:
            raise ConfigError(f"no baseline '{name}' for a {data.schema.objective}; there are {', '.join(fitting)}")
    return list(names)
