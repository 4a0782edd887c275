"""Comparison of methods for new items: the scenario "items" of `compare` (protocol I1 of docs/evaluation.md)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from pipelines.experiments.comparison import Comparison, MethodCost, MethodCurves
from pipelines.experiments.comparison_storage import store_comparison
from pipelines.experiments.served_items import ServedItems
from pipelines.experiments.thread_count import default_threads, fixed_threads
from pipelines.workspace import Workspace
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import Order
from recsys_meta.episodes.item_split import item_split
from recsys_meta.evaluation.curve import ColdStartCurve
from recsys_meta.evaluation.new_items.item_evaluation import ALONE, TRAINED, ItemEvaluation
from recsys_meta.metrics.ranking_metrics import NEW_ITEMS
from recsys_meta.models.new_items.methods import ITEM_BASELINES
from recsys_meta.store.tracking.evaluations import Role

BLEND = "content-blend"
SERVED = "served"
"""The project's own methods for new items: the blend of all signals, and what servers do with stored items."""


_ROLES: Mapping[str, Role] = {BLEND: "flagship", SERVED: "learner"}


def compare_items(
    workspace: Workspace,
    dataset: str,
    *,
    baselines: Sequence[str] | None = None,
    learners: Sequence[str] | None = None,
    shots: Sequence[int] | None = None,
    split: str = "seed",
    order: Order | None = None,
    seeds: Sequence[int] = (0,),
    threads: int | None = None,
    label: str | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> list[Comparison]:
    """Tune and evaluate methods for new items and store their evaluations in SQL; None takes all methods.

    Raises ConfigError for unknown names, and for data that are no ranking, have too few items, or lack item features
    where a point has no interaction.
    """
    data, _ = workspace.dataset(dataset)
    names = item_baselines(baselines)
    own = [BLEND, SERVED] if learners is None else list(learners)
    if unknown := [n for n in own if n not in (BLEND, SERVED)]:
        raise ConfigError(f"no learner '{unknown[0]}' for new items; there are {BLEND} and {SERVED}")
    points = tuple(sorted(set(shots or data.schema.shots)))
    curves: dict[str, dict[str, dict[int, ColdStartCurve]]] = {}
    seconds: dict[str, float] = {}
    notes: dict[str, str] = {}
    order = order or data.schema.order
    division = f"published-{data.schema.part}" if data.schema.part else f"items-by-{split}"
    # A published division without times differs between seeds in the supports alone.
    split_seeds = seeds[:1] if data.schema.part and max(points) == 0 else seeds
    for seed in split_seeds:
        evaluation = ItemEvaluation(data, item_split(data, seed, split, order), points)
        methods = [*own, *(n for n in names if evaluation.has_input(n))]
        for name in methods:
            notify(f"seed {seed}: {name}")
            start = time.perf_counter()
            with fixed_threads(threads or default_threads()):
                curve = _measure(evaluation, name)
            views = {"among-new": {name: curve}, **_whole_views(evaluation, name)}
            for view, by_name in views.items():
                for method, one in by_name.items():
                    curves.setdefault(view, {}).setdefault(method, {})[seed] = one
            seconds[name] = max(seconds.get(name, 0.0), time.perf_counter() - start)
            notes[name] = _note(evaluation, name)
    costs = {name: MethodCost(longest) for name, longest in seconds.items()}
    results = []
    for view, methods_of_view in curves.items():
        scenario = f"new-items-{view}/{order}-support/{division}"
        result = Comparison(label or data.schema.name, scenario, NEW_ITEMS, points, split=division)
        result.methods = [
            MethodCurves(n, _ROLES.get(n, "baseline"), c, notes.get(n, ""), costs.get(n))
            for n, c in methods_of_view.items()
        ]
        results.append(result)
    store_comparison(workspace, results)
    return results


def _measure(evaluation: ItemEvaluation, name: str) -> ColdStartCurve:
    if name == SERVED:
        return evaluation.placed(name, ServedItems(evaluation).build)
    return evaluation.blend(name) if name == BLEND else evaluation.baseline(name)


def _whole_views(evaluation: ItemEvaluation, name: str) -> dict[str, dict[str, ColdStartCurve]]:
    """Curves in lists of the whole catalogue: new items among all, and beside a model that is trained on them; known
    items beside them, alone and beside new ones once trained."""
    known, entities = evaluation.known_entities(), evaluation.entities()
    views = {
        "among-all": {name: ColdStartCurve(name, entities, evaluation.among_all[name])},
        "once-trained": {n: ColdStartCurve(n, entities, evaluation.later[n]) for n in (name, TRAINED)},
    }
    if len(known):
        names = (name, ALONE, TRAINED)
        views["known-beside"] = {n: ColdStartCurve(n, known, evaluation.known[n]) for n in names}
    return views


def item_baselines(names: Sequence[str] | None) -> list[str]:
    """Baselines for new items by name; None takes all. Raises ConfigError for an unknown one."""
    for name in names or ():
        if name not in ITEM_BASELINES:
            raise ConfigError(f"no baseline '{name}' for new items; there are {', '.join(ITEM_BASELINES)}")
    return list(ITEM_BASELINES if names is None else names)


def _note(evaluation: ItemEvaluation, name: str) -> str:
    """Describe the choices on validation items, at the first point."""
    shots = evaluation.shots[0]
    first, placement = evaluation.chosen[name][shots], evaluation.placements[name][shots]
    if placement is None:
        return "placed among known items by its own scores"
    settings = {**first, "scale among known items": f"{placement.scale:g}", "offset": f"{placement.offset:.2f}"}
    return "chosen on validation items: " + ", ".join(f"{k} {v}" for k, v in settings.items())
