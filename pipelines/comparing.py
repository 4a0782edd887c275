"""Learners and baselines side by side on the same episodes: one curve a method and seed, rows for SQL and JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from pipelines.training import split_of, train
from pipelines.workspace import Workspace, find_recipe
from recsys_meta.baselines import BASELINES
from recsys_meta.bundle import Bundle
from recsys_meta.dataset import Dataset
from recsys_meta.episodes import EventIndex, Split
from recsys_meta.errors import ConfigError
from recsys_meta.evaluate import Curve, Unadapted, change_made, cold_start, episodes_at, metrics_of
from recsys_meta.metrics import LOWER_IS_BETTER, Interval, paired, summarise_seeds
from recsys_meta.schema import Order
from recsys_meta.store import evaluations
from recsys_meta.store.evaluations import NewEvaluation, Role
from recsys_meta.train import Step
from recsys_meta.tuning import Report, fit_tuned

FLAGSHIP = "flagship"
LEARNERS = ("flagship", "maml", "fomaml", "melu")


@dataclass(frozen=True)
class Protocol:
    """How newcomers are evaluated; None takes the data set's own."""

    shots: tuple[int, ...]
    split: str = "seed"
    order: Order | None = None
    min_query: int | None = None

    def scenario(self, data: Dataset) -> str:
        """Its name in tables: who is new, and how supports are drawn."""
        order = self.order or data.schema.order
        return f"new-{data.schema.kind}s/{order}-support/split-by-{self.split}"


@dataclass(frozen=True)
class Method:
    """One row of the table: a method with a curve for each seed."""

    name: str
    role: Role
    curves: Mapping[int, Curve]
    note: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Versus:
    """The flagship (or the only learner) less the best baseline at one point, over all seeds."""

    method: str
    against: str
    shots: int
    metric: str
    difference: float
    low: float
    high: float
    p: float
    n: int


@dataclass
class Comparison:
    """All curves of one data set and protocol."""

    dataset: str
    scenario: str
    metrics: tuple[str, ...]
    shots: tuple[int, ...]
    methods: list[Method] = field(default_factory=list)
    bundle: Bundle | None = None
    run: str = ""
    change: Mapping[int, tuple[float, float]] = field(default_factory=dict)

    def rows(self) -> list[NewEvaluation]:
        """A row for each method, seed, point and metric, and one with seed None for the mean over seeds."""
        return [row for m in self.methods for row in self._rows(m)]

    def _rows(self, method: Method) -> list[NewEvaluation]:
        made = []
        for k in self.shots:
            for metric in self.metrics:
                values = {s: c.values[k][metric] for s, c in method.curves.items()}
                points: dict[int | None, Interval] = {s: summarise_seeds(metric, [v]) for s, v in values.items()}
                points[None] = summarise_seeds(metric, list(values.values()))
                made += [
                    NewEvaluation(
                        dataset=self.dataset,
                        scenario=self.scenario,
                        method=method.name,
                        role=method.role,
                        seed=seed,
                        shots=k,
                        metric=metric,
                        value=i.value,
                        low=i.low,
                        high=i.high,
                        n=i.n,
                    )
                    for seed, i in points.items()
                    if i.n
                ]
        return made

    def mean(self, method: Method, shots: int, metric: str) -> float:
        """Mean over seeds at one point, NaN without newcomers."""
        return summarise_seeds(metric, [c.values[shots][metric] for c in method.curves.values()], draws=1).value

    def best_baseline(self, shots: int, metric: str) -> Method | None:
        """The baseline that is best at this very point: the hardest one to beat."""
        sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
        candidates = [m for m in self.methods if m.role == "baseline"]
        scored = [(sign * self.mean(m, shots, metric), m) for m in candidates]
        scored = [(v, m) for v, m in scored if np.isfinite(v)]
        return max(scored, key=lambda pair: pair[0])[1] if scored else None

    def versus(self, metric: str) -> list[Versus]:
        """Paired differences of the first learner and the best baseline at each point."""
        learners = [m for m in self.methods if m.role in ("flagship", "learner")]
        made = []
        for k in self.shots if learners else ():
            other = self.best_baseline(k, metric)
            if other is None:
                continue
            ours = learners[0]
            mine = np.concatenate([ours.curves[s].values[k][metric] for s in sorted(ours.curves)])
            theirs = np.concatenate([other.curves[s].values[k][metric] for s in sorted(ours.curves)])
            p = paired(mine, theirs)
            made.append(Versus(ours.name, other.name, k, metric, p.difference, p.low, p.high, p.p, p.n))
        return made


Tell = Callable[[str], None]
OnStep = Callable[[str, Step], None]


def compare(
    workspace: Workspace,
    dataset: str,
    *,
    learners: Sequence[str] = LEARNERS,
    baselines: Sequence[str] | None = None,
    protocol: Protocol,
    seeds: Sequence[int] = (0, 1, 2),
    overrides: Sequence[str] = (),
    threads: int | None = None,
    tell: Tell = lambda _: None,
    on_step: OnStep = lambda *_: None,
) -> Comparison:
    """Train every learner and tune every baseline for each seed, and evaluate all on the same meta-test episodes.

    `baselines` None takes all that serve the objective. Stores the rows in SQL. Raises ConfigError for unknown names.
    """
    data, folder = workspace.dataset(dataset)
    chosen = baselines_for(data, baselines)
    recipes = [find_recipe(name, overrides) for name in learners]
    index = EventIndex.of(data)
    result = Comparison(data.schema.name, protocol.scenario(data), metrics_of(data), protocol.shots)
    curves: dict[tuple[str, Role], dict[int, Curve]] = {}
    notes: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for seed in seeds:
        split = split_of(data, index, protocol.split, seed)
        door = _Door(data, index, split, protocol, seed)
        for recipe in recipes:
            tell(f"seed {seed}: training {recipe.name}")
            trained = train(
                workspace,
                recipe,
                str(folder),
                seed=seed,
                threads=threads,
                split=protocol.split,
                report=lambda step, name=recipe.name: on_step(name, step),  # type: ignore[misc]
            )
            bundle = trained.bundle
            if bundle is None:
                raise ConfigError(f"training {recipe.name} left no model")
            seconds[recipe.name] = max(seconds.get(recipe.name, 0.0), trained.seconds)
            role: Role = "flagship" if recipe.name == FLAGSHIP else "learner"
            curves.setdefault((recipe.name, role), {})[seed] = door.curve(bundle.predictor, bundle.params, recipe.name)
            if recipe.name == recipes[0].name:
                plain = Unadapted(bundle.predictor)
                name = f"{recipe.name}-unadapted"
                curves.setdefault((name, "learner"), {})[seed] = door.curve(plain, bundle.params, name)
                result.bundle, result.run = result.bundle or bundle, result.run or trained.plan.id
                result.change = result.change or door.changes(bundle)
        for name in chosen:
            tell(f"seed {seed}: tuning {name}")
            tuned = fit_tuned(name, data, index, split, shots=protocol.shots, seed=seed, order=protocol.order)
            curves.setdefault((name, "baseline"), {})[seed] = door.curve(tuned.predictor, tuned.params, name)
            notes[name] = tuning_note(tuned.report)
    result.methods = [
        Method(name, role, by_seed, notes.get(name, ""), seconds.get(name, 0.0))
        for (name, role), by_seed in curves.items()
    ]
    with workspace.session() as session:
        evaluations.save(session, result.rows())
    return result


@dataclass(frozen=True)
class _Door:
    """The one evaluator that learners and baselines meet, with everything but the method fixed."""

    data: Dataset
    index: EventIndex
    split: Split
    protocol: Protocol
    seed: int

    def curve(self, predictor: Any, params: Any, name: str) -> Curve:
        curve = cold_start(
            predictor,
            params,
            self.data,
            self.index,
            self.split.test,
            shots=self.protocol.shots,
            order=self.protocol.order,
            seed=self.seed,
            min_query=self.protocol.min_query,
        )
        return Curve(name, curve.entities, curve.values)

    def changes(self, bundle: Bundle) -> dict[int, tuple[float, float]]:
        """Shots -> (norm of the state's change, change of the scores) over up to 64 test newcomers."""
        made = {}
        for k in self.protocol.shots:
            enough = self.index.counts[self.split.test].numpy() > k
            part = self.split.test[enough][:64]
            if len(part):
                change = change_made(bundle.predictor, bundle.params, episodes_at(self.data, self.index, part, k))
                made[k] = (change.state, change.scores)
        return made


def tuning_note(report: Report) -> str:
    """How a baseline was tuned, in a line: what was tried, and where the best lay at the edge of what was tried."""
    edges = sorted({e for choice in report.choices for e in choice.edges})
    return f"{report.tried} settings tried on meta-validation" + (f"; at an edge: {', '.join(edges)}" if edges else "")


def baselines_for(data: Dataset, names: Sequence[str] | None) -> list[str]:
    """Baselines that serve the objective; raises ConfigError for a name that does not exist or does not serve."""
    fitting = [n for n, c in BASELINES.items() if data.schema.objective in c.objectives]
    if names is None:
        return fitting
    for name in names:
        if name not in fitting:
            raise ConfigError(f"no baseline '{name}' for a {data.schema.objective}; there are {', '.join(fitting)}")
    return list(names)


def as_json(result: Comparison, command: str, created: str) -> dict[str, Any]:
    """The machine-readable form of the contract, with the paired tests beside the rows."""
    keep = ("dataset", "scenario", "method", "role", "seed", "shots", "metric", "value", "low", "high", "n")
    rows = [{k: v for k, v in asdict(r).items() if k in keep} for r in result.rows()]
    versus = [asdict(v) for metric in result.metrics for v in result.versus(metric)]
    methods = [
        {"method": m.name, "role": m.role, "train_seconds": round(m.seconds, 1), "note": m.note} for m in result.methods
    ]
    change = [{"shots": k, "state": s, "scores": c} for k, (s, c) in result.change.items()]
    return {
        "command": command,
        "created": created,
        "rows": rows,
        "paired": versus,
        "methods": methods,
        "change": change,
    }
