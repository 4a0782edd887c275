"""Checks of what every baseline promises, alone and in its per-shot form. Each takes a `BaselineCase` and raises
CheckFailure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.types import FIRST, Params, Support
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.evaluation.conformance.baseline_case import (
    TRAIN_ENTITIES,
    BaselineCase,
    draw_supports,
    group_world,
    make_rows,
    map_rows,
    single_task,
)
from recsys_meta.evaluation.conformance.check_failure import are_identical, require, require_close

BaselineCheck = Callable[[BaselineCase], None]
TOLERANCE = 2e-4


def _require_near(values: Tensor, expected: Tensor, expectation: str) -> None:
    require_close(values, expected, expectation, TOLERANCE, TOLERANCE)


def scores_are_finite(case: BaselineCase) -> None:
    """Scores of the catalogue and of rows have their shapes, agree and are finite."""
    support = draw_supports(case.data)
    state = case.predictor.adapt(case.body, support)
    ranks = case.predictor.rank(case.body, state)
    require(ranks.shape == (5, case.data.catalogue), f"rank gives 5 x {case.data.catalogue} scores")
    require(torch.isfinite(ranks), "all scores of rank are finite")
    require(all(len(leaf) == 5 for leaf in state.values()), "each tensor of a state has a row for a task")
    query = make_rows([[2, 3], [4, 5], [6, 7], [8, 1], [2, 0]])
    scores = case.predictor.score(case.body, state, query)
    _require_near(scores, ranks.gather(1, query.item), "score and rank agree")


def padding_changes_nothing(case: BaselineCase) -> None:
    """Columns beyond the mask have no influence, even where they hold other items and labels."""
    narrow, wide = draw_supports(case.data), draw_supports(case.data, width=11)
    mask = wide.rows.mask
    item, label = wide.rows.item.masked_fill(~mask, 3), wide.rows.label.masked_fill(~mask, 9.0)
    wide = Support(wide.features, replace(wide.rows, item=item, label=label))
    _require_near(_adapt_and_rank(case, wide), _adapt_and_rank(case, narrow), "padding of a support changes nothing")


def _adapt_and_rank(case: BaselineCase, support: Support) -> Tensor:
    return case.predictor.rank(case.body, case.predictor.adapt(case.body, support))


def order_of_the_support_changes_nothing(case: BaselineCase) -> None:
    """The order of a support has no influence, unless the baseline says that it reads it."""
    support = draw_supports(case.data)
    backwards = map_rows(support, lambda x: x.flip(1))
    before, after = (_adapt_and_rank(case, s) for s in (support, backwards))
    is_long = support.rows.mask.sum(1) > 1
    _require_near(after[~is_long], before[~is_long], "a support of one row has no order")
    if case.predictor.reads_order:
        is_same = torch.allclose(after[is_long], before[is_long], rtol=TOLERANCE, atol=TOLERANCE)
        require(not is_same, "reads_order is True, so the order changes scores")
    else:
        _require_near(after, before, "the order of a support changes nothing, or reads_order is True")


def a_batch_equals_its_tasks_one_by_one(case: BaselineCase) -> None:
    """Tasks of a batch do not influence each other."""
    support, predictor, body = draw_supports(case.data), case.predictor, case.body
    state = predictor.adapt(body, support)
    together, loss = predictor.rank(body, state), predictor.support_loss(body, state, support)
    for t in range(support.size):
        one = single_task(support, t)
        alone = predictor.adapt(body, one)
        _require_near(predictor.rank(body, alone)[0], together[t], f"task {t} alone is ranked as in a batch")
        _require_near(predictor.support_loss(body, alone, one)[0], loss[t], f"task {t} alone has its loss of a batch")


def an_empty_support_is_the_prior(case: BaselineCase) -> None:
    """Entities of equal features have equal, finite scores before their first row, and a support loss of 0."""
    support, predictor, body = draw_supports(case.data, sizes=(3, 3, 0)), case.predictor, case.body
    # Features apart (the content baseline reads them), nobody differs before the first row.
    support = Support({k: v[:1].expand_as(v).clone() for k, v in support.features.items()}, support.rows)
    state = predictor.adapt(body, support.empty())
    scores = predictor.rank(body, state)
    require(torch.isfinite(scores), "an empty support has finite scores")
    _require_near(scores[1], scores[0], "entities of equal features are equal before their first row")
    _require_near(_adapt_and_rank(case, single_task(support, 2))[0], scores[2], "no columns are an empty support")
    require(predictor.support_loss(body, state, support.empty()) == 0, "support_loss of an empty support is 0")


def unknown_items_are_accepted(case: BaselineCase) -> None:
    """Items that training never met have finite scores."""
    support, predictor, body = draw_supports(case.data), case.predictor, case.body
    unknown = Support(support.features, make_rows([[1], [1, 1], [1, 2], [1, 1, 1], [1]]))
    state = predictor.adapt(body, unknown)
    require(torch.isfinite(predictor.rank(body, state)), "a support of unknown items has finite scores")
    require(torch.isfinite(predictor.score(body, state, make_rows([[1]] * 5))), "unknown items have finite scores")
    require(torch.isfinite(predictor.support_loss(body, state, unknown)), "unknown items have a finite loss")


def inputs_are_not_mutated(case: BaselineCase) -> None:
    """Parameters, body, state, rows and features are as they were after they were used."""
    predictor, params, support = case.predictor, case.params, draw_supports(case.data)
    rows = {"item": support.rows.item, "label": support.rows.label, "mask": support.rows.mask}
    inputs = [dict(params), rows, dict(support.features)]
    before = [_copies(tensors) for tensors in inputs]
    body = predictor.body(params)
    state = predictor.adapt(body, support)
    inputs += [dict(body), dict(state)]
    before += [_copies(body), _copies(state)]
    predictor.rank(body, state)
    predictor.score(body, state, support.rows)
    predictor.support_loss(body, state, support)
    for now, then in zip(inputs, before, strict=True):
        for key in then:
            require(are_identical(now[key], then[key]), f"'{key}' is not written to")


def _copies(tensors: Params) -> Params:
    return {k: v.clone() for k, v in tensors.items()}


def eight_threads_equal_one(case: BaselineCase) -> None:
    """Eight threads that share a body adapt as one does, bit for bit."""
    batches = [draw_supports(case.data, seed=s) for s in range(16)]
    alone = [_adapt_and_rank(case, s) for s in batches]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda s: _adapt_and_rank(case, s), batches))
    require(all(torch.equal(a, b) for a, b in zip(alone, together, strict=True)), "no function keeps hidden state")


def fitting_twice_gives_the_same_parameters(case: BaselineCase) -> None:
    """Fitting is determined by data and settings."""
    again = case.predictor.fit(case.data, TRAIN_ENTITIES)
    require(case.params.keys() == again.keys(), "fit gives the same keys again")
    for key, value in case.params.items():
        require_close(value, again[key], f"fit gives the same '{key}' again", 1e-5, 1e-6)


def the_configuration_survives_a_round_trip(case: BaselineCase) -> None:
    """The configuration can be written as JSON and read."""
    predictor = case.predictor
    require(type(predictor).model_validate_json(predictor.model_dump_json()) == predictor, "JSON keeps a configuration")
    require(predictor.config is predictor, "a baseline is its own config")


def order_of_keys_changes_nothing(case: BaselineCase) -> None:
    """Scores do not depend on the order of the keys of parameters and features: a file keeps none."""
    support, predictor = draw_supports(case.data), case.predictor
    expected = _adapt_and_rank(case, support)
    body = _sort_keys(predictor.body(_sort_keys(case.params)))
    sorted_features = Support(_sort_keys(support.features), support.rows)
    _require_near(
        predictor.rank(body, predictor.adapt(body, sorted_features)), expected, "the order of keys changes nothing"
    )


def _sort_keys(tensors: Mapping[str, Tensor]) -> Params:
    return {key: tensors[key] for key in sorted(tensors)}


def other_entities_change_no_parameter(case: BaselineCase) -> None:
    """Parameters depend on the entities that are fitted on, and on no others."""
    data = group_world(case.objective)
    before = case.plain.fit(data, TRAIN_ENTITIES)
    events = data.events
    item, label = events.item.copy(), events.label.copy()
    start = events.indptr[len(TRAIN_ENTITIES)]
    item[start:] = FIRST + (item[start:] + 5) % (data.catalogue - FIRST)
    label[start:] = 1 if case.objective == "click" else 5
    after = case.plain.fit(replace(data, events=replace(events, item=item, label=label)), TRAIN_ENTITIES)
    require(before.keys() == after.keys(), "other entities' events change no key")
    for key, value in before.items():
        require_close(value, after[key], f"other entities' events do not change '{key}'", 0, 0, nan=True)


def tiny_catalogues_are_accepted(case: BaselineCase) -> None:
    """A catalogue of one item, or of two, has finite scores under several settings."""
    for items in (1, 2):
        data = group_world(case.objective, entities=6, items=items)
        for predictor in case.plain.grid()[:3]:
            body = predictor.body(predictor.fit(data, np.arange(4)))
            state = predictor.adapt(body, draw_supports(data, sizes=(0, 1, 2)))
            require(torch.isfinite(predictor.rank(body, state)), f"a catalogue of {items} has finite scores")


def entities_of_one_event_are_accepted(case: BaselineCase) -> None:
    """One entity of one event is enough to fit on."""
    data = group_world(case.objective)
    lonely = torch.nonzero(EventIndex.of(data).counts == 1).flatten().numpy()
    for entities in (lonely[:1], lonely):
        body = case.plain.body(case.plain.fit(data, entities))
        scores = case.plain.rank(body, case.plain.adapt(body, draw_supports(data)))
        require(torch.isfinite(scores), f"{len(entities)} entities of one event are enough to fit on")


def features_are_not_needed(case: BaselineCase) -> None:
    """Data without any features are enough."""
    data = group_world(case.objective, features=False)
    body = case.plain.body(case.plain.fit(data, TRAIN_ENTITIES))
    scores = case.plain.rank(body, case.plain.adapt(body, draw_supports(data)))
    require(torch.isfinite(scores), "data without features have finite scores")


def settings_of_a_grid_share_fits_and_shapes(case: BaselineCase) -> None:
    """Settings of a grid are distinct, have states of the same shapes, and equal fits for equal fit keys."""
    data, grid = group_world(case.objective), case.plain.grid()
    require(len(grid) == math.prod(len(v) for v in grid[0].search_space().values()), "the grid is the search space")
    require(len({s.model_dump_json() for s in grid}) == len(grid), "settings of a grid are distinct")
    shapes, fits = set(), dict[str, Params]()
    for setting in grid[:: max(1, len(grid) // 6)]:
        fit = setting.fit(data, TRAIN_ENTITIES)
        params = fits.setdefault(setting.fit_key(), fit)
        state = setting.adapt(setting.body(params), draw_supports(data))
        shapes.add(tuple(sorted((k, tuple(v.shape), str(v.dtype)) for k, v in state.items())))
        for key, value in fit.items():
            require_close(value, params[key], f"equal fit keys mean equal '{key}'", 1.3e-6, 1e-5, nan=True)
    require(len(shapes) == 1, "states of all settings have the same leaves and shapes")


FORM_CHECKS: tuple[BaselineCheck, ...] = (
    scores_are_finite,
    padding_changes_nothing,
    order_of_the_support_changes_nothing,
    a_batch_equals_its_tasks_one_by_one,
    an_empty_support_is_the_prior,
    unknown_items_are_accepted,
    inputs_are_not_mutated,
    eight_threads_equal_one,
    fitting_twice_gives_the_same_parameters,
    the_configuration_survives_a_round_trip,
    order_of_keys_changes_nothing,
)
"""Checks of the baseline and of its per-shot form."""
FIT_CHECKS: tuple[BaselineCheck, ...] = (
    other_entities_change_no_parameter,
    tiny_catalogues_are_accepted,
    entities_of_one_event_are_accepted,
    features_are_not_needed,
    settings_of_a_grid_share_fits_and_shapes,
)
"""Checks of the baseline alone, which fit it anew."""
