"""Checks of what every learner promises, whatever it is. Each takes a `LearnerCase` and raises CheckFailure."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from recsys_meta.core.types import FloatArray, Interactions, Params, State, Support
from recsys_meta.evaluation.cold_start import cold_start, episodes_at
from recsys_meta.evaluation.conformance.check_failure import (
    are_identical,
    require,
    require_all_close,
    require_close,
)
from recsys_meta.evaluation.conformance.learner_case import (
    LearnerCase,
    copy_tensors,
    draw_batch,
    generator,
    train_briefly,
    trainable_copies,
    without_context,
)
from recsys_meta.metrics.pooled_metrics import RowSample
from recsys_meta.models.functional.losses import logistic_loss

LearnerCheck = Callable[[LearnerCase], None]


def ranking_agrees_with_scoring(case: LearnerCase) -> None:
    """Scores of rows are those of the same items in the ranking of the catalogue."""
    body, support = case.learner.body(case.params), case.batch.support
    state = case.learner.adapt(body, support)
    ranks = case.learner.rank(body, state)
    items = case.data.catalogue if support.catalogue is None else len(support.catalogue.mask[0])
    require(ranks.shape == (support.size, items), f"rank gives {support.size} x {items} scores, not {[*ranks.shape]}")
    require(torch.isfinite(ranks), "all scores of rank are finite")
    query = without_context(case.batch.query)
    scores = case.learner.score(body, state, query)
    expected = ranks.gather(1, query.item)
    require_close(scores[query.mask], expected[query.mask], "score and rank agree")


def adapting_changes_predictions(case: LearnerCase) -> None:
    """Adapting to rows changes the scores, and adapting to none does not."""
    body, support = case.learner.body(case.params), case.batch.support
    before = case.learner.rank(body, case.learner.adapt(body, support.empty()))
    after = case.learner.rank(body, case.learner.adapt(body, support))
    change = (after - before).norm(dim=1)
    has_rows = support.rows.mask.any(1)
    require(change[has_rows] > 1e-4, "an entity with rows gets other scores than without")
    require(change[~has_rows] < 1e-5, "an entity without rows gets the scores of an empty support")


def padding_changes_nothing(case: LearnerCase) -> None:
    """Columns beyond the mask have no influence, even where they hold other items and labels."""
    body, support, query = case.learner.body(case.params), case.batch.support, case.batch.query
    wide = replace(support, rows=_pad_with_garbage(support.rows))
    require_all_close(
        case.answers(body, wide, query), case.answers(body, support, query), "padding of a support changes nothing"
    )
    losses = case.loss(case.params, replace(case.batch, support=wide))[0], case.loss(case.params)[0]
    require_close(*losses, "padding of a support does not change the meta-loss")


def _pad_with_garbage(rows: Interactions) -> Interactions:
    tasks = len(rows.mask)
    wider = rows.map(lambda t: torch.cat([t, torch.full((tasks, 3, *t.shape[2:]), 1, dtype=t.dtype)], 1))
    mask = torch.cat([rows.mask, torch.zeros(tasks, 3, dtype=torch.bool)], 1)
    return replace(
        wider,
        item=wider.item.masked_fill(~mask, 5),
        label=wider.label.masked_fill(~mask, 9.0),
        mask=mask,
        history=None if wider.history is None else wider.history.masked_fill(~mask[:, :, None], 4),
    )


def order_of_the_support_changes_nothing(case: LearnerCase) -> None:
    """A support is a set: its order has no influence, unless the learner says by `reads_order` that it reads it."""
    body, support, query = case.learner.body(case.params), case.batch.support, case.batch.query
    order = torch.randperm(support.rows.item.shape[1], generator=generator(5))
    shuffled = replace(support, rows=support.rows.map(lambda t: t[:, order]))
    after, before = case.answers(body, shuffled, query), case.answers(body, support, query)
    if getattr(case.learner, "reads_order", False):
        is_same = all(torch.equal(x, y) for x, y in zip(after, before, strict=True))
        require(not is_same, "reads_order is True, so the order of a support changes answers")
    else:
        require_all_close(after, before, "the order of a support changes nothing, or reads_order is True")


def a_batch_equals_its_tasks_one_by_one(case: LearnerCase) -> None:
    """Tasks of a batch do not influence each other."""
    body, batch = case.learner.body(case.params), case.batch
    together = case.answers(body, batch.support, batch.query)
    for t in range(batch.support.size):
        one = batch.support.of(torch.tensor([t]))
        alone = replace(one, rows=one.rows.first(int(one.rows.mask.sum())))
        query = batch.query.of(torch.tensor([t]))
        require_all_close(
            case.answers(body, alone, query),
            [x[t : t + 1] for x in together],
            f"task {t} alone, without padding, is what it is in a batch",
        )


def an_empty_support_is_finite(case: LearnerCase) -> None:
    """A support without rows has finite scores, a loss of 0 and a finite meta-loss, however it is spelt."""
    body, support = case.learner.body(case.params), case.batch.support
    empty = case.answers(body, support.empty(), case.batch.query)
    masked = replace(support.rows, mask=torch.zeros_like(support.rows.mask))
    require_all_close(
        empty,
        case.answers(body, replace(support, rows=masked), case.batch.query),
        "no columns, and columns that are masked, are the same empty support",
    )
    require(all(bool(torch.isfinite(x).all()) for x in empty), "an empty support has finite scores")
    require(empty[2] == 0, "support_loss of an empty support is 0")
    loss, _ = case.loss(trainable_copies(case.learner, case.params), replace(case.batch, support=support.empty()))
    loss.backward()  # type: ignore[no-untyped-call]
    require(torch.isfinite(loss), "the meta-loss of empty supports is finite")


def unknown_ids_are_accepted(case: LearnerCase) -> None:
    """Items and features that training never met have finite scores, the same for all unknown values."""
    body, support = case.learner.body(case.params), case.batch.support
    far = {
        k: torch.full_like(v, torch.nan) if v.is_floating_point() else torch.full_like(v, 10**6)
        for k, v in support.features.items()
    }
    rows = replace(support.rows, item=torch.ones_like(support.rows.item))
    scores = case.answers(body, replace(support, features=far, rows=rows), case.batch.query)
    require(all(bool(torch.isfinite(x).all()) for x in scores), "unknown items and features have finite scores")
    unknown = {k: v if v.is_floating_point() else torch.ones_like(v) for k, v in far.items()}
    others = case.answers(body, replace(support, features=unknown, rows=rows), case.batch.query)
    require_all_close(scores, others, "an id beyond the table is an unknown id")


def inputs_are_not_mutated(case: LearnerCase) -> None:
    """Parameters, rows, features and the body are as they were after adapting and after a step."""
    params, batch = trainable_copies(case.learner, case.params), case.batch
    inputs = {f"support {k}": v for k, v in vars(batch.support.rows).items() if isinstance(v, Tensor)}
    inputs |= {f"query {k}": v for k, v in vars(batch.query).items() if isinstance(v, Tensor)}
    inputs |= {f"feature {k}": v for k, v in batch.support.features.items()}
    params_before, inputs_before = copy_tensors(params), copy_tensors(inputs)
    case.loss(params)[0].backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        body = case.learner.body(params)
        body_before = copy_tensors(body)
        case.answers(body, batch.support, batch.query)
    for now, before in ((params, params_before), (inputs, inputs_before), (body, body_before)):
        require(now.keys() == before.keys(), "no function adds or removes a key of its inputs")
        for key in now:
            require(are_identical(now[key], before[key]), f"'{key}' is not written to")


def chance_comes_from_the_generators(case: LearnerCase) -> None:
    """Nothing is drawn but from the generators that are given."""
    torch.manual_seed(11)
    before = torch.get_rng_state()
    case.learner.init(case.data, case.split.train, generator(1))
    case.loss(case.params)
    case.answers(case.learner.body(case.params), case.batch.support, case.batch.query)
    require(torch.equal(before, torch.get_rng_state()), "torch's global generator is not used")


def a_state_has_a_graph_only_where_asked(case: LearnerCase) -> None:
    """A state has a graph where parameters ask for gradients, with the same values; under no_grad it has none."""
    params, support = trainable_copies(case.learner, case.params), case.batch.support
    with torch.no_grad():
        blind = case.learner.adapt(case.learner.body(params), support)
    plain = case.learner.adapt(case.learner.body(case.params), support)
    require(not any(v.requires_grad for v in [*blind.values(), *plain.values()]), "no graph is built without need")
    live = case.learner.adapt(case.learner.body(params), support)
    require(any(v.requires_grad for v in live.values()), "the outer gradient goes through adapt")
    for key, value in plain.items():
        require(torch.equal(blind[key], value), f"'{key}' of a state is the same under no_grad")
        require_close(live[key].detach(), value, f"'{key}' of a state is the same with a graph")


def eight_threads_equal_one(case: LearnerCase) -> None:
    """Eight threads that share a body adapt as one does, bit for bit."""
    body, support = case.learner.body(case.params), case.batch.support

    def adapt_and_rank(task: int) -> Tensor:
        with torch.no_grad():
            return case.learner.rank(body, case.learner.adapt(body, support.of(torch.tensor([task]))))

    tasks = [t % support.size for t in range(48)]
    alone = [adapt_and_rank(t) for t in tasks]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(adapt_and_rank, tasks))
    require(all(torch.equal(a, b) for a, b in zip(alone, together, strict=True)), "no function keeps hidden state")


def the_same_seed_gives_the_same_result(case: LearnerCase) -> None:
    """Equal seeds give equal parameters and gradients, bit for bit; another seed gives other parameters."""
    again = case.learner.init(case.data, case.split.train, generator(1))
    require(again.keys() == case.params.keys(), "init gives the same keys again")
    require(all(are_identical(again[k], case.params[k]) for k in again), "init is determined by its generator")
    other = case.learner.init(case.data, case.split.train, generator(9))
    require(any(not are_identical(other[k], case.params[k]) for k in other), "init draws from its generator")
    one, two = (_gradients(case, seed=4) for _ in range(2))
    require(one.keys() == two.keys(), "the same parameters have gradients again")
    require(all(torch.equal(one[k], two[k]) for k in one), "the meta-loss is determined by its generator")


def _gradients(case: LearnerCase, seed: int) -> Params:
    params = trainable_copies(case.learner, case.params)
    case.loss(params, seed=seed)[0].backward()  # type: ignore[no-untyped-call]
    return {k: v.grad for k, v in params.items() if v.grad is not None}


def every_parameter_gets_an_outer_gradient(case: LearnerCase) -> None:
    """Each parameter that is not frozen has a finite gradient that is not 0, and a group of the outer optimiser."""
    params = trainable_copies(case.learner, case.params)
    for seed in range(4):
        entities = case.split.train.take(range(seed * 20, seed * 20 + 20), mode="wrap")
        loss, figures = case.loss(params, draw_batch(case.data, case.index, entities, seed=seed), seed)
        loss.backward()  # type: ignore[no-untyped-call]
        require(all(np.isfinite(float(v)) for v in figures.values()), "figures that the meta-loss logs are finite")
    names = [key for key in params if not case.learner.is_frozen(key)]
    gradients = {key: g for key in names if (g := params[key].grad) is not None}
    missing = ", ".join(key for key in names if key not in gradients)
    require(not missing, f"every parameter gets a gradient, or is_frozen says that it gets none: {missing}")
    for key, gradient in gradients.items():
        require(torch.isfinite(gradient), f"the gradient of '{key}' is finite")
        require(gradient.abs().max() > 0, f"the gradient of '{key}' is not 0")
        group = case.learner.param_group(key)
        require(group.rate > 0 and group.decay >= 0, f"'{key}' has a positive rate and a decay of 0 or more")


def state_and_config_survive_a_round_trip(case: LearnerCase) -> None:
    """Configuration, parameters and state can be written and read, and answer as before."""
    learner, batch = case.learner, case.batch
    body = learner.body(case.params)
    state = learner.adapt(body, batch.support)
    require(
        all(v.shape[0] == batch.support.size for v in state.values()), "each tensor of a state has a row for a task"
    )
    config = type(learner.config).model_validate(json.loads(learner.config.model_dump_json()))
    require(config == learner.config, "the configuration is equal after a round trip through JSON")
    copy: Any = type(learner)(config)  # type: ignore[call-arg]
    params, state_read = load(save({k: v.clone() for k, v in case.params.items()})), load(save(state))
    require(state_read.keys() == state.keys(), "a state keeps its keys")
    require(all(torch.equal(state_read[k], state[k]) for k in state), "a state keeps its values")
    body_read = copy.body(params)
    # Not bit for bit: where a tensor lies in memory decides how a kernel sums.
    require_all_close(
        (copy.rank(body_read, state_read), copy.score(body_read, state_read, batch.query)),
        (learner.rank(body, state), learner.score(body, state, batch.query)),
        "what was read scores as what was written",
    )


def order_of_keys_changes_nothing(case: LearnerCase) -> None:
    """Answers do not depend on the order of the keys of parameters and features: a file keeps none."""
    learner, batch = case.learner, case.batch
    expected = case.answers(learner.body(case.params), batch.support, batch.query)
    body = _sort_keys(learner.body(_sort_keys(case.params)))
    given = batch.support
    support = replace(given, features=_sort_keys(given.features), rows=_with_sorted_context(given.rows))
    answers = case.answers(body, support, _with_sorted_context(batch.query))
    require_all_close(answers, expected, "the order of keys changes nothing")


def _with_sorted_context(rows: Interactions) -> Interactions:
    return replace(rows, context=_sort_keys(rows.context))


def _sort_keys(tensors: Mapping[str, Tensor]) -> Params:
    return {key: tensors[key] for key in sorted(tensors)}


def query_labels_never_reach_adapt(case: LearnerCase) -> None:
    """The meta-loss adapts through `adapt`, once, to a state that does not depend on the query."""
    if hasattr(case.learner, "members"):  # a mixture adapts through its members, each of which has this check
        return
    calls: list[tuple[Support, State]] = []

    class AdaptSpy(type(case.learner)):  # type: ignore[misc]
        def adapt(self, body: Params, support: Support) -> State:
            state: State = super().adapt(body, support)
            calls.append((support, copy_tensors(state)))
            return state

    spy, batch = AdaptSpy(case.learner.config), case.batch
    query = batch.query
    other = replace(query, item=query.item.flip(0), label=1 - query.label, mask=query.mask.flip(0))
    for rows in (query, other):
        spy.meta_loss(copy_tensors(case.params), replace(batch, query=rows), case.training_state, generator(0))
    require(len(calls) == 2, f"a meta-loss adapts through adapt, once, not {len(calls) / 2:g} times")
    (support, state), (_, state_other) = calls
    require(torch.equal(support.rows.item, batch.support.rows.item), "the meta-loss adapts to the support")
    require(all(torch.equal(state[k], state_other[k]) for k in state), "a state does not depend on the query")


def support_loss_falls_along_the_step(case: LearnerCase) -> None:
    """A small step downhill makes the support more likely. Inner rates are parameters "rate.*", as logarithms."""
    learner, support = case.learner, case.batch.support
    small, still = (learner.body(_with_rates(case.params, by)) for by in (-2.0, -60.0))
    has_rows = support.rows.mask.any(1)
    # What choices count of a support is no step: they are compared with a step of no length.
    counts = case.data.schema.objective == "choice"
    start = learner.adapt(still, support) if counts else learner.adapt(small, support.empty())
    before = learner.support_loss(small, start, support)[has_rows].mean()
    after = learner.support_loss(small, learner.adapt(small, support), support)[has_rows].mean()
    require(after < before, f"adapting lowers support_loss; it was {float(before):.4f} and is {float(after):.4f}")


def _with_rates(params: Params, by: float) -> Params:
    """Parameters whose inner rates are e^by times as great, with steps that are taken in full."""
    full = {k: torch.ones_like(v) for k, v in params.items() if k == "trust"}
    return {k: v + by if k.startswith(("rate.", "log_step")) else v for k, v in copy_tensors(params).items()} | full


def adapting_beats_not_adapting(case: LearnerCase) -> None:
    """After a short training, adapting to 8 rows of new entities is better than not adapting, by two errors."""
    longer = {"epochs": 30, "tasks": 8} if case.data.schema.objective == "choice" else {}  # its world has few entities
    params = train_briefly(case.learner, case.data, **longer)[0]
    gain = _gain_by_adapting(case, params)
    error = gain.std() / math.sqrt(len(gain))
    require(bool(gain.mean() > 2 * error), f"adapting to 8 rows gains; it gains {gain.mean():.4f} +- {error:.4f}")


METRICS = {"ranking": ("ndcg@10", 1), "rating": ("rmse", -1), "choice": ("mrr", 1)}
"""Metric of the gain, and its sign, for the objectives that have one an entity."""


def _gain_by_adapting(case: LearnerCase, params: Params) -> FloatArray:
    """Gain [n] of each test entity by 8 rows: of the metric, for clicks of the log-loss."""
    data, index, test = case.data, case.index, case.split.test
    if data.schema.objective == "click":
        batch, body = episodes_at(data, index.shuffled(0), test, 8), case.learner.body(params)
        losses = [
            logistic_loss(case.learner.score(body, case.learner.adapt(body, s), batch.query), batch.query)
            for s in (batch.support, batch.support.empty())
        ]
        return (losses[1] - losses[0]).numpy()
    metric, sign = METRICS[data.schema.objective]
    predictors: tuple[Any, ...] = (case.learner, _UnadaptedLearner(case.learner))
    curves = (
        cold_start(predictor, params, data, index, test, shots=(8,), order="random").values[8][metric]
        for predictor in predictors
    )
    adapted, frozen = (v.value if isinstance(v, RowSample) else v for v in curves)
    return np.asarray(sign * (adapted - frozen))


class _UnadaptedLearner:
    """Learner with the same parameters that does not look at the support."""

    def __init__(self, learner: Any) -> None:
        self._learner = learner

    def adapt(self, body: Params, support: Support) -> State:
        state: State = self._learner.adapt(body, support.empty())
        return state

    def __getattr__(self, name: str) -> Any:
        return getattr(self._learner, name)


LEARNER_CHECKS: tuple[LearnerCheck, ...] = (
    ranking_agrees_with_scoring,
    adapting_changes_predictions,
    padding_changes_nothing,
    order_of_the_support_changes_nothing,
    a_batch_equals_its_tasks_one_by_one,
    an_empty_support_is_finite,
    unknown_ids_are_accepted,
    inputs_are_not_mutated,
    chance_comes_from_the_generators,
    a_state_has_a_graph_only_where_asked,
    eight_threads_equal_one,
    the_same_seed_gives_the_same_result,
    every_parameter_gets_an_outer_gradient,
    state_and_config_survive_a_round_trip,
    order_of_keys_changes_nothing,
    query_labels_never_reach_adapt,
    support_loss_falls_along_the_step,
    adapting_beats_not_adapting,
)
