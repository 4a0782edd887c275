"""Learners and baselines side by side on the same episodes: one curve a method and seed, rows for SQL and JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from pipelines.comparison import Comparison, Method
from pipelines.training import Trained, default_threads, fixed_threads, split_of, train
from pipelines.workspace import Workspace, find_recipe
from recsys_meta.baselines import BASELINES
from recsys_meta.bundle import Bundle
from recsys_meta.dataset import Dataset
from recsys_meta.episodes import EventIndex, Split, seen_only
from recsys_meta.errors import ConfigError
from recsys_meta.evaluate import Curve, Unadapted, change_made, cold_start, episodes_at, metrics_of
from recsys_meta.learners import LEARNERS as LEARNER_CLASSES
from recsys_meta.recipe import Recipe
from recsys_meta.scenarios import four_corners
from recsys_meta.schema import Order
from recsys_meta.store import evaluations
from recsys_meta.store.evaluations import Role
from recsys_meta.train import Step
from recsys_meta.tuning import Fitted, Report, fit_tuned
from recsys_meta.types import IntArray

FLAGSHIP = "flagship"
LEARNERS = ("flagship", "maml", "fomaml", "melu")


@dataclass(frozen=True)
class Protocol:
    """How newcomers are evaluated; None takes the data set's own."""

    shots: tuple[int, ...]
    split: str = "seed"
    order: Order | None = None
    min_query: int | None = None
    scenario: Literal["new", "corners"] = "new"

    def label(self, data: Dataset) -> str:
        """Its name in tables: who is new, and how supports are drawn."""
        order = self.order or data.schema.order
        return f"new-{data.schema.kind}s/{order}-support/split-by-{self.split}"


Tell = Callable[[str], None]
OnStep = Callable[[str, Step], None]


def compare(
    workspace: Workspace,
    dataset: str,
    *,
    learners: Sequence[str] | None = None,
    baselines: Sequence[str] | None = None,
    protocol: Protocol,
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
    tables: dict[str, _Table] = {}
    for seed in seeds:
        doors = _doors(data, protocol, seed)
        for door in doors:
            tables.setdefault(door.scenario, _Table(data, door.scenario, protocol.shots))
        for recipe in recipes:
            tell(f"seed {seed}: training {recipe.name}")
            trained = train(
                workspace,
                recipe,
                str(folder),
                seed=seed,
                threads=threads,
                split=protocol.split,
                scenario=protocol.scenario,
                report=lambda step, name=recipe.name: on_step(name, step),  # type: ignore[misc]
            )
            with fixed_threads(threads or default_threads()):
                for door in doors:
                    tables[door.scenario].learner(door, recipe, trained, first=recipe is recipes[0])
        for name in chosen:
            tell(f"seed {seed}: tuning {name}")
            with fixed_threads(threads or default_threads()):
                tuned = fit_tuned(
                    name, doors[0].known, doors[0].training, doors[0].split, protocol.shots, seed, protocol.order
                )
                for door in doors:
                    tables[door.scenario].baseline(door, name, tuned)
    results = [table.comparison() for table in tables.values()]
    with workspace.session() as session:
        evaluations.save(session, [row for result in results for row in result.rows()])
    return results


class _Table:
    """A comparison in the making."""

    def __init__(self, data: Dataset, scenario: str, shots: tuple[int, ...]) -> None:
        self._result = Comparison(data.schema.name, scenario, metrics_of(data), shots)
        self._curves: dict[tuple[str, Role], dict[int, Curve]] = {}
        self._notes: dict[str, str] = {}
        self._seconds: dict[str, float] = {}

    def learner(self, door: _Door, recipe: Recipe, trained: Trained, *, first: bool) -> None:
        bundle = trained.bundle
        role: Role = "flagship" if recipe.name == FLAGSHIP else "learner"
        self._seconds[recipe.name] = max(self._seconds.get(recipe.name, 0.0), trained.seconds)
        self._add(door, recipe.name, role, bundle.predictor, bundle.params)
        if first:
            self._add(door, f"{recipe.name}-unadapted", "learner", Unadapted(bundle.predictor), bundle.params)
            if self._result.bundle is None:
                self._result.bundle, self._result.run = bundle, trained.plan.id
                self._result.change = door.changes(bundle)

    def baseline(self, door: _Door, name: str, tuned: Fitted) -> None:
        self._add(door, name, "baseline", tuned.predictor, tuned.params)
        self._notes[name] = tuning_note(tuned.report)

    def _add(self, door: _Door, name: str, role: Role, predictor: Any, params: Any) -> None:
        self._curves.setdefault((name, role), {})[door.seed] = door.curve(predictor, params, name)

    def comparison(self) -> Comparison:
        self._result.methods = [
            Method(name, role, curves, self._notes.get(name, ""), self._seconds.get(name, 0.0))
            for (name, role), curves in self._curves.items()
        ]
        return self._result


@dataclass(frozen=True)
class _Door:
    """The one evaluator that learners and baselines meet, with everything but the method fixed.

    `index` has the rows asked about, `training` those that training and tuning may see, `known` the data set as if
    there were no others.
    """

    data: Dataset
    known: Dataset
    training: EventIndex
    index: EventIndex
    entities: IntArray
    shown: torch.Tensor | None
    split: Split
    scenario: str
    protocol: Protocol
    seed: int

    def curve(self, predictor: Any, params: Any, name: str) -> Curve:
        curve = cold_start(
            predictor,
            params,
            self.data,
            self.index,
            self.entities,
            shots=self.protocol.shots,
            order=self.protocol.order,
            seed=self.seed,
            min_query=self.protocol.min_query,
            shown=self.shown,
        )
        return Curve(name, curve.entities, curve.values)

    def changes(self, bundle: Bundle) -> dict[int, tuple[float, float]]:
        """Shots -> (norm of the state's change, change of the scores) over up to 64 newcomers."""
        made = {}
        for k in self.protocol.shots:
            enough = self.index.counts[torch.from_numpy(self.entities)].numpy() > k
            part = self.entities[enough][:64]
            if len(part):
                change = change_made(bundle.predictor, bundle.params, episodes_at(self.data, self.index, part, k))
                made[k] = (change.state, change.scores)
        return made


def _doors(data: Dataset, protocol: Protocol, seed: int) -> list[_Door]:
    """The scenarios of a protocol: new entities on all items, or the four corners of warm and cold."""
    index = EventIndex.of(data)
    split = split_of(data, index, protocol.split, seed)
    name = protocol.label(data)
    if protocol.scenario == "new":
        return [_Door(data, data, index, index, split.test, None, split, name, protocol, seed)]
    cut = four_corners(data, index, split, seed=seed)
    known = seen_only(data, cut.training, split.train)
    return [
        _Door(data, known, cut.training, c.index, c.entities, c.shown, split, f"{c.scenario}/{name}", protocol, seed)
        for c in cut.corners.values()
    ]


def recipes_for(data: Dataset, names: Sequence[str] | None, overrides: Sequence[str] = ()) -> list[Recipe]:
    """Recipes by name; None takes those that come with the project and serve the objective."""
    if names is not None:
        return [find_recipe(name, overrides) for name in names]
    return [recipe for recipe in (find_recipe(name, overrides) for name in LEARNERS) if _serves(recipe, data)]


def _serves(recipe: Recipe, data: Dataset) -> bool:
    objectives = getattr(LEARNER_CLASSES[recipe.learner], "objectives", None)
    return objectives is None or data.schema.objective in objectives


def tuning_note(report: Report) -> str:
    """How a baseline was tuned, in a line: what was tried, and where the best lay at the edge of what was tried."""
    edges = sorted({e for choice in report.choices for e in choice.edges})
    return f"{report.tried} settings tried on meta-validation" + (f"; at an edge: {', '.join(edges)}" if edges else "")


def baselines_for(data: Dataset, names: Sequence[str] | None) -> list[str]:
    """Baselines that serve the objective; raises ConfigError for a name that does not exist or does not serve."""
    fitting = [n for n, c in BASELINES.items() if data.schema.objective in c.objectives]
    if names is None:
        # Without arrivals `recent` is popularity over again.
        return [n for n in fitting if n != "recent" or data.schema.arrival]
    for name in names:
        if name not in fitting:
            raise ConfigError(f"no baseline '{name}' for a {data.schema.objective}; there are {', '.join(fitting)}")
    return list(names)
