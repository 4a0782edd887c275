import numpy as np
import pytest

from recsys_meta.core.errors import ConfigError
from recsys_meta.metrics.bootstrap import mean_over_seeds, paired_difference_over_seeds, summarise, summarise_seeds
from recsys_meta.metrics.pooled_metrics import RowSample, auc, compute_metric, reliability


def clicks(rows=4000, entities=50, seed=0, sharp=1.0):
    """Calibrated logits, their labels, and the entity of each row."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(size=rows)
    label = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float64)
    return RowSample(np.sort(rng.integers(0, entities, rows)), logit * sharp, label)


def naive_auc(value, label):
    pairs = [(a > b) + 0.5 * (a == b) for a in value[label == 1] for b in value[label == 0]]
    return float(np.mean(pairs))


def test_auc_counts_pairs_and_halves_ties():
    rng = np.random.default_rng(1)
    value, label = rng.integers(0, 6, 80).astype(float), rng.integers(0, 2, 80)
    assert auc(value, label) == pytest.approx(naive_auc(value, label))
    assert np.isnan(auc(value, np.ones(80)))


def test_logloss_is_the_mean_over_rows():
    sample = clicks()
    chance = 1 / (1 + np.exp(-sample.value))
    wanted = -np.mean(sample.label * np.log(chance) + (1 - sample.label) * np.log(1 - chance))
    assert compute_metric("logloss", sample) == pytest.approx(wanted)


def test_calibration_error_sees_overconfidence():
    assert compute_metric("ece", clicks()) < 0.03
    assert compute_metric("ece", clicks(sharp=4.0)) > 0.1
    mean, rate, rows = reliability(clicks(rows=60_000))
    assert rows.sum() == 60_000
    assert np.abs(mean - rate).max() < 0.03


@pytest.mark.parametrize("metric", ["logloss", "auc", "ece"])
def test_an_interval_holds_its_figure_and_shrinks_with_entities(metric):
    few, many = (summarise(metric, clicks(rows=60 * n, entities=n)) for n in (20, 400))
    assert few.high - few.low > 2 * (many.high - many.low)
    if metric != "ece":  # a mean of absolute values is not centred on itself
        assert few.low < few.value < few.high


def test_rows_of_one_entity_are_not_independent():
    rng = np.random.default_rng(0)
    entity = np.repeat(np.arange(10), 200)
    value = rng.normal(size=10)[entity]
    i = summarise("hit@10", RowSample(entity, value))
    assert i.high - i.low > 0.5  # as of ten values, not of two thousand


def test_macro_means_count_every_entity_once():
    sample = RowSample(np.array([0, 0, 0, 1]), np.array([1.0, 1.0, 1.0, 0.0]))
    assert compute_metric("hit@10", sample) == 0.75
    assert compute_metric("macro_hit@10", sample) == 0.5


def test_rows_that_are_not_asked_about_leave():
    sample = RowSample(np.array([0, 0, 1]), np.array([1.0, np.nan, 0.0]))
    assert compute_metric("new_hit@10", sample) == 0.5
    assert summarise("new_hit@10", sample).n == 2
    assert np.isnan(compute_metric("mrr", RowSample(np.empty(0, int), np.empty(0))))
    assert summarise("mrr", RowSample(np.empty(0, int), np.empty(0))).n == 0


@pytest.mark.parametrize("metric", ["logloss", "auc"])
def test_a_better_method_is_clearly_better(metric):
    good = [clicks(seed=s) for s in range(3)]
    rng = np.random.default_rng(5)
    bad = [RowSample(s.entity, s.value + rng.normal(scale=1.5, size=len(s.value)), s.label) for s in good]
    p = paired_difference_over_seeds(metric, good, bad)
    assert p.p < 0.01
    assert (p.high < 0) if metric == "logloss" else (p.low > 0)
    same = paired_difference_over_seeds(metric, good, good)
    assert same.difference == 0
    assert same.p == 1


def test_seeds_are_averaged():
    parts = [clicks(seed=s) for s in range(3)]
    wanted = np.mean([compute_metric("auc", s) for s in parts])
    assert summarise_seeds("auc", parts).value == pytest.approx(wanted)


def test_samples_of_other_rows_cannot_be_paired():
    with pytest.raises(ValueError, match="different rows"):
        paired_difference_over_seeds("auc", [clicks(seed=0)], [clicks(seed=1)])


@pytest.mark.parametrize("metric", ["logloss", "auc", "ece"])
def test_a_prediction_that_is_no_number_makes_the_metric_none(metric):
    """A model that fails for the rows it finds hard must not be evaluated on the others alone."""
    sample = clicks()
    value = sample.value.copy()
    value[17] = np.nan
    failed = RowSample(sample.entity, value, sample.label)
    assert np.isnan(compute_metric(metric, failed)) and np.isfinite(compute_metric(metric, sample))
    interval = summarise_seeds(metric, [sample, failed])
    assert np.isnan([interval.value, interval.low, interval.high]).all() and interval.n == 100
    assert np.isnan(mean_over_seeds(metric, [sample, failed])[0])
    for pair in ((sample, failed), (failed, sample)):
        difference = paired_difference_over_seeds(metric, [pair[0]], [pair[1]])
        assert np.isnan(difference.difference) and difference.p == 1.0 and difference.n == 50
    mean, rate, rows = reliability(failed)
    assert rows.sum() == len(value) - 1 and np.isfinite(mean).all() and np.isfinite(rate).all()


def test_an_unknown_metric_is_refused():
    sample, values = clicks(), np.ones(3)
    for call in (
        lambda: compute_metric("log-loss", sample),
        lambda: compute_metric("rmse", sample),
        lambda: summarise("log-loss", sample),
        lambda: summarise_seeds("log-loss", [values]),
        lambda: summarise("ndgc@10", values),
        lambda: paired_difference_over_seeds("ndgc@10", [values], [values]),
        lambda: paired_difference_over_seeds("ndgc@10", [sample], [sample]),
    ):
        with pytest.raises(ConfigError, match=r"no metric '.*' here; there are auc, ece"):
            call()


def test_a_mean_without_an_interval_is_that_of_the_interval():
    samples = [clicks(seed=s) for s in range(3)]
    rng = np.random.default_rng(0)
    values = [np.append(rng.exponential(size=30), np.nan) for _ in range(3)]
    for metric, seeds in (("auc", samples), ("logloss", samples), ("rmse", values), ("mrr", values)):
        interval = summarise_seeds(metric, seeds)
        assert mean_over_seeds(metric, seeds) == (interval.value, interval.n)
