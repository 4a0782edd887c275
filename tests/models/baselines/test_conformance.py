"""Contract that every baseline meets, alone and in its per-shot form."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from recsys_meta.core.types import FIRST, Interactions, Support
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.models.baselines import BASELINES, make_per_shot
from tests.models.baselines.cases import (
    baseline_objectives,
    make_small_baseline,
    map_rows,
    rows,
    simulated_dataset,
    single_task,
    supports,
)

TRAIN = np.arange(40)


def plain(name, objective):
    return make_small_baseline(name, objective)


def mixed(name, objective):
    """A tuned form whose settings differ between support sizes."""
    settings = make_small_baseline(name, objective).grid()
    return make_per_shot(name, [settings[0], settings[len(settings) // 2], settings[-1]], [0, 1, 5], [0, 1, 2])


@pytest.fixture(
    scope="module",
    params=[(form, *pair) for form in (plain, mixed) for pair in baseline_objectives()],
    ids=lambda p: "-".join([p[0].__name__, *p[1:]]),
)
def case(request):
    form, name, objective = request.param
    data = simulated_dataset(objective)
    predictor = form(name, objective)
    params = predictor.fit(data, TRAIN)
    return data, predictor, params, predictor.body(params)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-4)


def test_scores_have_their_shapes_and_are_finite(case):
    data, predictor, _, body = case
    support = supports(data)
    state = predictor.adapt(body, support)
    ranked = predictor.rank(body, state)
    assert ranked.shape == (5, data.catalogue)
    assert torch.isfinite(ranked).all()
    assert all(len(leaf) == 5 for leaf in state.values())
    query = rows([[2, 3], [4, 5], [6, 7], [8, 1], [2, 0]])
    close(predictor.score(body, state, query), ranked.gather(1, query.item))


def test_padding_changes_nothing(case):
    data, predictor, _, body = case
    narrow, wide = supports(data), supports(data, width=11)
    # What lies in the padding must not matter either.
    r = wide.rows
    wide = Support(
        wide.features, Interactions(r.item.masked_fill(~r.mask, 3), r.label.masked_fill(~r.mask, 9.0), r.mask)
    )
    before = predictor.rank(body, predictor.adapt(body, narrow))
    close(predictor.rank(body, predictor.adapt(body, wide)), before)


def test_order_of_the_support_changes_nothing_unless_it_is_read(case):
    data, predictor, _, body = case
    support = supports(data)
    backwards = map_rows(support, lambda x: x.flip(1))
    before, after = (predictor.rank(body, predictor.adapt(body, s)) for s in (support, backwards))
    is_long = support.rows.mask.sum(1) > 1
    close(after[~is_long], before[~is_long])
    if predictor.reads_order:
        assert not torch.allclose(after[is_long], before[is_long], rtol=2e-4, atol=2e-4)
    else:
        close(after, before)


def test_a_batch_equals_its_tasks_one_by_one(case):
    data, predictor, _, body = case
    support = supports(data)
    state = predictor.adapt(body, support)
    together, loss = predictor.rank(body, state), predictor.support_loss(body, state, support)
    for t in range(support.size):
        alone = predictor.adapt(body, single_task(support, t))
        close(predictor.rank(body, alone)[0], together[t])
        close(predictor.support_loss(body, alone, single_task(support, t))[0], loss[t])


def test_empty_support_is_the_prior_for_everyone_alike(case):
    data, predictor, _, body = case
    support = supports(data, sizes=(3, 3, 0))
    # Features apart (the content baseline reads them), nobody differs before the first row.
    support = Support({k: v[:1].expand_as(v).clone() for k, v in support.features.items()}, support.rows)
    state = predictor.adapt(body, support.empty())
    scores = predictor.rank(body, state)
    assert torch.isfinite(scores).all()
    close(scores[1], scores[0])
    close(predictor.rank(body, predictor.adapt(body, single_task(support, 2)))[0], scores[2])
    assert predictor.support_loss(body, state, support.empty()).tolist() == [0.0, 0.0, 0.0]


def test_unknown_items_are_accepted(case):
    data, predictor, _, body = case
    support = supports(data)
    unknown = Support(support.features, rows([[1], [1, 1], [1, 2], [1, 1, 1], [1]]))
    state = predictor.adapt(body, unknown)
    assert torch.isfinite(predictor.rank(body, state)).all()
    assert torch.isfinite(predictor.score(body, state, rows([[1]] * 5))).all()
    assert torch.isfinite(predictor.support_loss(body, state, unknown)).all()


def test_inputs_are_not_mutated(case):
    data, predictor, params, _ = case
    support = supports(data)
    kept = {k: v.clone() for k, v in params.items()}
    inputs = [support.rows.item.clone(), support.rows.label.clone(), support.rows.mask.clone()]
    features = {k: v.clone() for k, v in support.features.items()}
    body = predictor.body(params)
    shaped = {k: v.clone() for k, v in body.items()}
    state = predictor.adapt(body, support)
    found = {k: v.clone() for k, v in state.items()}
    predictor.rank(body, state)
    predictor.score(body, state, support.rows)
    predictor.support_loss(body, state, support)
    for before, after in ((kept, params), (shaped, body), (found, state), (features, support.features)):
        assert before.keys() == after.keys()
        assert all(
            torch.equal(
                before[k],
                after[k],
            )
            or torch.isnan(before[k]).any()
            for k in before
        )
    now = [support.rows.item, support.rows.label, support.rows.mask]
    assert all(torch.equal(a, b) for a, b in zip(inputs, now, strict=True))


def test_eight_threads_equal_one(case):
    data, predictor, _, body = case
    batches = [supports(data, seed=s) for s in range(16)]

    def answer(support):
        return predictor.rank(body, predictor.adapt(body, support))

    alone = [answer(s) for s in batches]
    with ThreadPoolExecutor(8) as pool:
        for a, b in zip(alone, pool.map(answer, batches), strict=True):
            assert torch.equal(a, b)


def test_fitting_twice_gives_the_same_parameters(case):
    data, predictor, params, _ = case
    again = predictor.fit(data, TRAIN)
    assert params.keys() == again.keys()
    for key in params:
        torch.testing.assert_close(params[key], again[key], rtol=1e-5, atol=1e-6)


def test_configuration_survives_a_round_trip(case):
    _, predictor, _, _ = case
    assert type(predictor).model_validate_json(predictor.model_dump_json()) == predictor
    assert predictor.config is predictor


@pytest.mark.parametrize(("name", "objective"), baseline_objectives())
def test_other_entities_change_no_parameter(name, objective):
    data = simulated_dataset(objective)
    predictor = make_small_baseline(name, objective)
    before = predictor.fit(data, TRAIN)
    events = data.events
    item, label = events.item.copy(), events.label.copy()
    start = events.indptr[len(TRAIN)]
    item[start:] = FIRST + (item[start:] + 5) % (data.catalogue - FIRST)
    label[start:] = 1 if objective == "click" else 5
    assert not np.array_equal(item, events.item)
    changed = type(data)(
        data.schema, type(events)(events.indptr, item, label, events.time), data.entities, data.items, data.vocab
    )
    after = predictor.fit(changed, TRAIN)
    assert before.keys() == after.keys()
    for key in before:
        torch.testing.assert_close(before[key], after[key], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("name", "objective"), baseline_objectives())
@pytest.mark.parametrize("items", [1, 2])
def test_tiny_catalogues(name, objective, items):
    data = simulated_dataset(objective, entities=6, items=items)
    for predictor in make_small_baseline(name, objective).grid()[:3]:
        body = predictor.body(predictor.fit(data, np.arange(4)))
        state = predictor.adapt(body, supports(data, sizes=(0, 1, 2)))
        assert torch.isfinite(predictor.rank(body, state)).all()


@pytest.mark.parametrize(("name", "objective"), baseline_objectives())
def test_entities_with_one_event_and_with_none_and_no_entities(name, objective):
    data = simulated_dataset(objective)
    counts = EventIndex.of(data).counts
    lonely = torch.nonzero(counts == 1).flatten().numpy()
    assert len(lonely)
    for entities in (lonely[:1], lonely):
        predictor = make_small_baseline(name, objective)
        body = predictor.body(predictor.fit(data, entities))
        assert torch.isfinite(predictor.rank(body, predictor.adapt(body, supports(data)))).all()


@pytest.mark.parametrize(("name", "objective"), baseline_objectives())
def test_works_without_any_features(name, objective):
    data = simulated_dataset(objective, features=False)
    predictor = make_small_baseline(name, objective)
    body = predictor.body(predictor.fit(data, TRAIN))
    assert torch.isfinite(predictor.rank(body, predictor.adapt(body, supports(data)))).all()


@pytest.mark.parametrize(("name", "objective"), baseline_objectives())
def test_settings_of_a_grid_share_state_shapes_and_fits_by_key(name, objective):
    data = simulated_dataset(objective)
    grid = make_small_baseline(name, objective).grid()
    assert len(grid) == math.prod(len(values) for values in grid[0].search_space().values())
    assert len({s.model_dump_json() for s in grid}) == len(grid)
    shapes, fits = set(), {}
    for setting in grid[:: max(1, len(grid) // 6)]:
        params = fits.setdefault(setting.fit_key(), setting.fit(data, TRAIN))
        state = setting.adapt(setting.body(params), supports(data))
        shapes.add(tuple(sorted((k, tuple(v.shape), v.dtype) for k, v in state.items())))
        for key, value in setting.fit(data, TRAIN).items():
            torch.testing.assert_close(value, params[key], equal_nan=True)
    assert len(shapes) == 1


def test_names_are_those_of_the_registry():
    for name, kind in BASELINES.items():
        assert kind.name == name
        assert make_per_shot(name, [kind()], [0], [0]).name == name
