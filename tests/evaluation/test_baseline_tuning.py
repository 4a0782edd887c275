"""Tuning on meta-validation, and the predictor that comes of it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys_meta.core.errors import ConfigError, NotFoundError
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.splits import split_by_seed
from recsys_meta.evaluation import baseline_tuning as tuning
from recsys_meta.evaluation import tuning_trial, validation_episodes
from recsys_meta.evaluation.baseline_tuning import TuningChoice, TuningReport, edge_warnings, fit_tuned
from recsys_meta.evaluation.cold_start import cold_start
from recsys_meta.evaluation.evaluate_batch import metric_names, tunable_metrics
from recsys_meta.evaluation.validation_episodes import episodes_by_shots
from recsys_meta.models.baselines import BASELINES, make_per_shot
from recsys_meta.models.baselines.counting.bias_model import ItemMean
from recsys_meta.models.baselines.item_based.ease import Ease
from recsys_meta.models.baselines.item_based.itemknn import ItemKNN
from recsys_meta.models.baselines.item_based.naive_bayes import NaiveBayes
from tests.fixtures.choice_datasets import choice_world
from tests.models.baselines.cases import rows, simulated_dataset, supports

SHOTS = (0, 1, 3)


@pytest.fixture(scope="module", autouse=True)
def one_draw():
    """One support of each entity, so that what is tuned on is what `cold_start` evaluates."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation_episodes, "MOST_DRAWS", 1)
        yield


@pytest.fixture(scope="module")
def setting():
    data = simulated_dataset(entities=200, items=40)
    index = EventIndex.of(data)
    return data, index, split_by_seed(index.entities_with(2), 0, (0.6, 0.2))


@pytest.fixture(scope="module")
def fitted(setting):
    return fit_tuned("naive-bayes", *setting, shots=SHOTS)


def test_choices_are_the_best_of_the_whole_grid(setting, fitted):
    data, index, split = setting
    grid = NaiveBayes().grid()
    for choice in fitted.report.choices:
        values = []
        for g in (NaiveBayes.model_validate(choice.setting), *grid):
            curve = cold_start(g, g.fit(data, split.train), data, index, split.valid, shots=[choice.shots])
            values.append(curve.mean("ndcg@10"))
        # Ties are broken at random in evaluation, batch by batch: hence the slack.
        assert choice.value == pytest.approx(max(values), abs=0.01)
    assert fitted.report.tried >= len(grid)
    assert fitted.report.seconds > 0


def test_the_tuned_form_answers_as_the_chosen_setting_does(setting, fitted):
    data, _, split = setting
    predictor, params, report = fitted.predictor, fitted.params, fitted.report
    body = predictor.body(params)
    for choice in report.choices:
        predictor_setting = NaiveBayes.model_validate(choice.setting)
        inner = predictor_setting.body(predictor_setting.fit(data, split.train))
        support = supports(data, sizes=(choice.shots,) * 3)
        expected = predictor_setting.rank(inner, predictor_setting.adapt(inner, support))
        torch.testing.assert_close(predictor.rank(body, predictor.adapt(body, support)), expected)


def test_it_can_be_evaluated_and_beats_popularity(setting):
    data, index, split = setting
    itemknn = fit_tuned("itemknn", data, index, split, shots=SHOTS)
    popularity = fit_tuned("popularity", data, index, split, shots=SHOTS)
    curve, base = (
        cold_start(f.predictor, f.params, data, index, split.test, shots=SHOTS) for f in (itemknn, popularity)
    )
    assert curve.method == "itemknn"
    assert curve.interval(3, "ndcg@10").value > base.interval(3, "ndcg@10").value + 0.02


def test_test_entities_change_neither_parameters_nor_choices(setting, fitted):
    data, _, split = setting
    events = data.events
    item = events.item.copy()
    for e in split.test:
        item[events.indptr[e] : events.indptr[e + 1]] = 2
    changed = type(data)(
        data.schema, type(events)(events.indptr, item, events.label), data.entities, data.items, data.vocab
    )
    again = fit_tuned("naive-bayes", changed, EventIndex.of(changed), split, shots=SHOTS)
    assert again.predictor == fitted.predictor
    assert again.params.keys() == fitted.params.keys()
    assert all(torch.equal(again.params[k], fitted.params[k]) for k in fitted.params)


def test_fits_are_shared(setting, monkeypatch):
    calls = []
    original = ItemKNN.fit
    monkeypatch.setattr(ItemKNN, "fit", lambda self, *a: calls.append(1) or original(self, *a))
    tuned = fit_tuned("itemknn", *setting, shots=SHOTS)
    assert len(calls) == 1
    assert {k.split("/")[0] for k in tuned.params} == {"0"}


def test_screening_keeps_what_matters(setting, monkeypatch):
    whole = fit_tuned("ease", *setting, shots=SHOTS)
    for module in (tuning, tuning_trial):
        monkeypatch.setattr(module, "SCREENING_ENTITIES", 12)
    screened = fit_tuned("ease", *setting, shots=SHOTS)
    for a, b in zip(screened.report.choices, whole.report.choices, strict=True):
        assert a.n == b.n
        assert a.value >= b.value - 0.05
    assert np.isfinite([c.value for c in screened.report.choices]).all()


def with_other_taste(data, entities):
    """The data set in which some entities have the least popular items instead of the most popular, and so on."""
    item = data.events.item.copy()
    for e in entities:
        own = slice(data.events.indptr[e], data.events.indptr[e + 1])
        item[own] = data.catalogue + 1 - item[own]
    return replace(data, events=replace(data.events, item=item))


@pytest.mark.parametrize("fold", [0, 1])
def test_a_fold_has_no_say_in_the_choice_made_without_it(setting, fold, monkeypatch):
    # Which settings are tried depends on all entities, which of them is chosen does not.
    monkeypatch.setattr(tuning_trial, "WIDENING_ROUNDS", 0)
    data, _, split = setting
    fitted = fit_tuned("naive-bayes", *setting, shots=SHOTS)
    assert fitted.entities.tolist() == sorted(split.valid)
    own = fitted.fold_entities(fold)
    assert own.tolist() == sorted(split.valid)[fold::2]
    changed = with_other_taste(data, own)
    again = fit_tuned("naive-bayes", changed, EventIndex.of(changed), split, shots=SHOTS)
    assert again.fold_predictors[fold] == fitted.fold_predictors[fold]
    # The others notice: so would this choice, had it seen the fold.
    assert again.predictor != fitted.predictor
    assert again.fold_predictors[1 - fold] != fitted.fold_predictors[1 - fold]


def test_a_fold_chooses_the_best_setting_for_the_other_entities(setting, fitted):
    data, index, split = setting
    for fold, predictor in enumerate(fitted.fold_predictors):
        others = fitted.fold_entities(1 - fold)
        for k, j in zip(predictor.shots, predictor.choice, strict=True):
            values = {}
            for g in (predictor.predictors[j], *NaiveBayes().grid()):
                curve = cold_start(g, g.fit(data, split.train), data, index, others, shots=[k])
                values[g] = curve.mean("ndcg@10")
            # Ties are broken at random in evaluation, batch by batch: hence the slack.
            assert values[predictor.predictors[j]] >= max(values.values()) - 0.015


def test_each_fold_has_its_parameters_and_other_fits_are_dropped(setting):
    data, _, split = setting
    tuned = fit_tuned("ease", *setting, shots=SHOTS)
    predictors = (tuned.predictor, *tuned.fold_predictors)
    assert set(tuned.fits) == {p.fit_key() for whole in predictors for p in whole.predictors}
    for predictor in predictors:
        params, expected = tuned.params_of(predictor), predictor.fit(data, split.train)
        assert params.keys() == expected.keys()
        assert all(torch.equal(params[k], expected[k]) for k in params)
    assert tuned.params.keys() == tuned.params_of(tuned.predictor).keys()


def test_a_fold_chooses_among_the_settings_that_all_entities_tried(setting, monkeypatch):
    data, index, split = setting
    for module in (tuning, tuning_trial):
        monkeypatch.setattr(module, "SCREENING_ENTITIES", 12)
    episodes = episodes_by_shots(data, index, np.sort(split.valid), SHOTS, tuning.SCREENING_ENTITIES)
    folds = [np.sort(split.valid)[fold::2] for fold in (0, 1)]
    trial = tuning_trial.TuningTrial(NaiveBayes().grid(), data, split.train, "ndcg@10", 0, episodes, folds)
    trial.run()
    values = trial.signed_values()
    assert np.isnan(values).any()
    for fold in (0, 1):
        chosen = trial.choose(fold)
        assert np.isfinite(values[np.arange(len(SHOTS)), chosen]).all()


def test_with_one_entity_the_folds_choose_as_it_does(setting):
    data, index, split = setting
    few = replace(split, valid=split.valid[:1])
    tuned = fit_tuned("naive-bayes", data, index, few, shots=(1,))
    assert tuned.fold_entities(0).tolist() == few.valid.tolist()
    assert not len(tuned.fold_entities(1))
    assert tuned.fold_predictors == (tuned.predictor, tuned.predictor)


class NarrowBayes(NaiveBayes):
    """Naive Bayes whose grid ends before the optimum: trust .05 and .1 instead of about 1."""

    def search_space(self):
        return {"strength": (30.0,), "trust": (0.05, 0.1)}


@pytest.fixture
def narrow(setting):
    """A trial of NarrowBayes at 1 and 3 shots that was not run yet."""
    data, index, split = setting
    episodes = episodes_by_shots(data, index, np.sort(split.valid), (1, 3), tuning.SCREENING_ENTITIES)
    return tuning_trial.TuningTrial(NarrowBayes().grid(), data, split.train, "ndcg@10", 0, episodes)


def test_ranges_grow_until_the_best_value_is_inside(setting, fitted, narrow):
    narrow.run()
    assert narrow.open_ends() == [[], []]
    trust = [narrow.settings[j].trust for j in narrow.choose()]
    assert min(trust) > 0.2
    tried = sorted(s.trust for s in narrow.settings)
    # Steps are those of the grid.
    assert tried[:4] == [0.05, 0.1, 0.2, 0.4] and max(tried) > max(trust)
    values = narrow.metric_values()[[0, 1], narrow.choose()]
    whole = [next(c.value for c in fitted.report.choices if c.shots == k) for k in (1, 3)]
    assert (values > np.array(whole) - 0.02).all()


def test_an_end_that_rounds_do_not_reach_is_reported(narrow, monkeypatch):
    monkeypatch.setattr(tuning_trial, "WIDENING_ROUNDS", 1)
    narrow.run()
    assert [str(end) for end in narrow.open_ends()[0]] == ["trust=0.4 (upper end)"]


def test_ranges_grow_while_the_rows_of_all_fits_are_few_enough(setting, monkeypatch):
    data, index, split = setting
    episodes = episodes_by_shots(data, index, np.sort(split.valid), (1, 3), tuning.SCREENING_ENTITIES)

    def ridges():
        trial = tuning_trial.TuningTrial(Ease().grid(), data, split.train, "ndcg@10", 0, episodes)
        trial.run()
        return {s.ridge for s in trial.settings}

    grid = {s.ridge for s in Ease().grid()}
    assert ridges() > grid
    monkeypatch.setattr(tuning_trial, "FIT_ROWS", 0)
    assert ridges() == grid, "what the grid has is fitted all the same"


def test_values_beyond_the_grid_are_tried_on_all_entities(setting, monkeypatch):
    for module in (tuning, tuning_trial):
        monkeypatch.setattr(module, "SCREENING_ENTITIES", 12)
    data, index, split = setting
    episodes = episodes_by_shots(data, index, np.sort(split.valid), (1, 3), tuning.SCREENING_ENTITIES)
    trial = tuning_trial.TuningTrial(NarrowBayes().grid(), data, split.train, "ndcg@10", 0, episodes)
    trial.run()
    assert all(len(batches) > 1 for batches in episodes.values())
    beyond = [j for j, s in enumerate(trial.settings) if s.trust > 0.1]
    values = trial.signed_values()[:, beyond]
    # Each was tried where it was wanted, and there on all entities.
    assert (np.isfinite(values).sum(0) > 0).all()
    assert trial.open_ends() == [[], []]


def test_a_setting_whose_matrix_cannot_be_factored_is_not_chosen(setting, monkeypatch):
    data, index, split = setting
    original = NaiveBayes.body

    def failing(self, params):
        if self.trust > 0.05:
            raise torch.linalg.LinAlgError("not positive-definite")
        return original(self, params)

    monkeypatch.setattr(NarrowBayes, "body", failing)
    monkeypatch.setattr(NarrowBayes, "body_key", lambda self: self.model_dump_json())
    episodes = episodes_by_shots(data, index, np.sort(split.valid), (1,), tuning.SCREENING_ENTITIES)
    trial = tuning_trial.TuningTrial(NarrowBayes().grid(), data, split.train, "ndcg@10", 0, episodes)
    trial.run()
    assert all(trial.settings[j].trust <= 0.05 for j in trial.choose())
    assert np.isneginf(trial.signed_values()[0, 1])


def test_parameters_that_no_choice_needs_are_forgotten(setting):
    data, index, split = setting
    episodes = episodes_by_shots(data, index, np.sort(split.valid), SHOTS, tuning.SCREENING_ENTITIES)
    trial = tuning_trial.TuningTrial(Ease().grid(), data, split.train, "ndcg@10", 0, episodes)
    trial.run()
    assert set(trial.fits) == {trial.settings[j].fit_key() for j in trial.choose()}
    assert len(trial.fits) < len({s.fit_key() for s in trial.settings})


def test_edges_are_warnings():
    choices = [
        TuningChoice(k, {}, 0.5, 9, edges)
        for k, edges in [(0, ()), (1, ("a=1 (upper end)",)), (3, ("a=1 (upper end)", "b=2 (lower end)"))]
    ]
    first, second = edge_warnings(TuningReport("some", "ndcg@10", 4, 1.0, tuple(choices)))
    assert "some: a=1 (upper end) is best at 1, 3 shots" in first
    assert "some: b=2 (lower end) is best at 3 shots" in second
    assert edge_warnings(TuningReport("some", "ndcg@10", 4, 1.0, tuple(choices[:1]))) == []


def test_sizes_nobody_reaches_take_the_nearest_choice(setting):
    tuned = fit_tuned("popularity", *setting, shots=(0, 3, 500))
    assert [c.shots for c in tuned.report.choices] == [0, 3]
    data = setting[0]
    body = tuned.predictor.body(tuned.params)
    assert torch.isfinite(tuned.predictor.rank(body, tuned.predictor.adapt(body, supports(data, sizes=(20,))))).all()


def test_the_nearest_size_serves_and_an_empty_support_has_its_own():
    grid = [NaiveBayes(trust=t) for t in (0.1, 0.2, 0.3)]
    predictor = make_per_shot("naive-bayes", grid, [0, 1, 10], [0, 1, 2])
    sizes = torch.tensor([0, 1, 3, 4, 10, 400])
    assert predictor._settings_for(sizes).tolist() == [0, 1, 1, 2, 2, 2]


def test_settings_nobody_chose_are_left_out():
    grid = [NaiveBayes(trust=t) for t in (0.1, 0.2, 0.3)]
    predictor = make_per_shot("naive-bayes", grid, [0, 1], [2, 2])
    assert [s["trust"] for s in predictor.settings] == [0.3]
    assert predictor.choice == (0, 0)


@pytest.mark.parametrize("wrong", [{"shots": (1, 0)}, {"choice": (0, 5)}, {"settings": ()}, {"choice": (0,)}])
def test_nonsense_is_refused(wrong):
    good = make_per_shot("naive-bayes", [NaiveBayes()], [0, 1], [0, 0])
    with pytest.raises(ValueError, match=r"shots|choice|settings"):
        type(good).model_validate(good.model_dump() | wrong)


def test_ratings_are_tuned_downwards():
    data = simulated_dataset("rating", entities=500)
    index = EventIndex.of(data)
    split = split_by_seed(index.entities_with(2), 0)
    tuned = fit_tuned("item-mean", data, index, split, shots=SHOTS)
    assert tuned.report.metric == "rmse"
    for choice in tuned.report.choices:
        for extreme in (2.0, 64.0):
            other = ItemMean.model_validate(choice.setting | {"user_shrink": extreme})
            params = other.fit(data, split.train)
            curve = cold_start(other, params, data, index, split.valid, shots=[choice.shots])
            assert choice.value < curve.interval(choice.shots, "rmse").value + 1e-6


@pytest.mark.parametrize("objective", ["rating", "click"])
def test_a_setting_that_predicts_no_number_for_a_row_is_never_chosen(objective, monkeypatch):
    data = simulated_dataset(objective, entities=200)
    index = EventIndex.of(data)
    rest = data, index, split_by_seed(index.entities_with(2), 0, (0.6, 0.2))
    choice = fit_tuned("item-mean", *rest, shots=(1,)).report.choices[0]
    original = ItemMean.score

    def failing(self, body, state, batch):
        scores = original(self, body, state, batch).clone()
        if fails(self):
            scores[0, 0] = math.nan
        return scores

    monkeypatch.setattr(ItemMean, "score", failing)
    fails = lambda setting: setting.model_dump() == choice.setting  # noqa: E731
    other = fit_tuned("item-mean", *rest, shots=(1,)).report.choices[0]
    assert other.setting != choice.setting and choice.value <= other.value < math.inf
    fails = lambda setting: True  # noqa: E731
    with pytest.raises(ConfigError, match="no setting of 'item-mean' predicts only numbers at 1 shots"):
        fit_tuned("item-mean", *rest, shots=(1,))


def test_bad_requests_are_refused(setting):
    with pytest.raises(NotFoundError):
        fit_tuned("nothing", *setting)
    with pytest.raises(ConfigError, match="metric 'auc'; there are ndcg@10"):
        fit_tuned("chance", *setting, metric="auc")
    with pytest.raises(ConfigError, match="no meta-validation entity"):
        fit_tuned("chance", *setting, shots=[1000])
    with pytest.raises(ConfigError, match="serves click, rating"):
        fit_tuned("item-mean", *setting)


def kinds():
    """A data set of each objective, and one of clicks in lists."""
    plain = [simulated_dataset(objective) for objective in ("ranking", "rating", "click")]
    lists = replace(
        plain[2], events=replace(plain[2].events, group=np.arange(len(plain[2].events.item), dtype=np.int32))
    )
    return {"ranking": plain[0], "rating": plain[1], "click": plain[2], "lists": lists, "choice": choice_world()}


@pytest.mark.parametrize("kind", ["ranking", "rating", "click", "lists", "choice"])
def test_every_metric_is_tuned_by_or_refused_with_those_there_are(kind):
    data = kinds()[kind]
    index = EventIndex.of(data)
    rest = data, index, split_by_seed(index.entities_with(2), 0, (0.6, 0.2))
    name = {"ranking": "popularity", "choice": "local-popularity"}.get(kind, "item-mean")
    tunable = tunable_metrics(data)
    assert tunable[0] == metric_names(data)[0]
    for metric in (*metric_names(data), "accuracy"):
        if metric in tunable:
            assert np.isfinite(fit_tuned(name, *rest, shots=(0, 1), metric=metric).report.choices[0].value)
        else:
            with pytest.raises(ConfigError) as error:
                fit_tuned(name, *rest, shots=(0, 1), metric=metric)
            assert f"'{metric}'" in str(error.value) and ", ".join(tunable) in str(error.value)


def test_an_unknown_baseline_has_no_tuned_form():
    with pytest.raises(NotFoundError, match="no baseline 'nothing'; known: chance"):
        make_per_shot("nothing", [], [0], [])


def test_an_empty_batch_is_answered(fitted):
    predictor = fitted.predictor
    body = predictor.body(fitted.params)
    empty = supports(simulated_dataset(), sizes=(1,))
    empty = type(empty)({k: v[:0] for k, v in empty.features.items()}, rows([[1]]).first(0))
    empty = empty.of(torch.arange(0))
    assert predictor.rank(body, predictor.adapt(body, empty)).shape[0] == 0


def test_every_baseline_can_be_tuned(setting, monkeypatch):
    for name in ("chance", "gaussian", "content"):
        assert name in BASELINES
        assert fit_tuned(name, *setting, shots=SHOTS).predictor.name == name
