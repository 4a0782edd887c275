import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_meta.metrics.bootstrap import paired_difference, summarise, summarise_seeds
from recsys_meta.metrics.ranking_metrics import (
    LOWER_IS_BETTER,
    RANKING,
    RATING,
    choice_metrics,
    ndcg,
    ranking_metrics,
    rating_metrics,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def naive_ranking(order, relevant):
    """Metrics of one task from the shown items in ranked order."""
    gains = [i in relevant for i in order]
    found = sum(gains)
    if not found:
        return dict.fromkeys(RANKING, math.nan)
    dcg = sum(1 / math.log2(p + 2) for p, g in enumerate(gains[:10]) if g)
    ideal = sum(1 / math.log2(p + 2) for p in range(min(10, found)))
    return {
        "ndcg@10": dcg / ideal,
        "recall@20": sum(gains[:20]) / found,
        "mrr": 1 / (gains.index(True) + 1),
        "hit@10": float(any(gains[:10])),
    }


def task(rng, tasks, items, share=0.2):
    scores = torch.from_numpy(rng.permuted(np.tile(np.arange(items, dtype=np.float32), (tasks, 1)), axis=1))
    relevant = torch.from_numpy(rng.random((tasks, items)) < share)
    shown = torch.from_numpy(rng.random((tasks, items)) < 0.8)
    return scores, relevant, shown


@pytest.mark.parametrize("items", [3, 9, 11, 20, 21, 70])
def test_ranking_equals_a_loop_over_tasks(items):
    """Catalogues below the cut-offs, tasks without a relevant item, relevant items that are not shown."""
    scores, relevant, shown = task(np.random.default_rng(items), 60, items)
    got = ranking_metrics(scores, relevant, shown, generator())
    for t in range(60):
        order = [i for i in scores[t].argsort(descending=True).tolist() if shown[t, i]]
        wanted = naive_ranking(order, {i for i in order if relevant[t, i]})
        for name in RANKING:
            assert float(got[name][t]) == pytest.approx(wanted[name], abs=1e-6, nan_ok=True), (t, name)


def test_ties_are_broken_by_the_random_order_wherever_they_are():
    """Scores of few levels, against lists that are put in the random order as a whole and sorted stably."""
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.integers(0, 30, (40, 90)).astype(np.float32))
    relevant, shown = (torch.from_numpy(rng.random((40, 90)) < share) for share in (0.1, 0.8))
    got = ranking_metrics(scores, relevant, shown, generator(7))
    shuffled = torch.randperm(90, generator=generator(7))
    for t in range(40):
        order = [int(i) for i in shuffled if shown[t, i]]
        order = sorted(order, key=lambda i: -scores[t, i])
        wanted = naive_ranking(order, {i for i in order if relevant[t, i]})
        assert float(got["mrr"][t]) == pytest.approx(wanted["mrr"], nan_ok=True), t


def test_nothing_relevant_leaves_and_a_perfect_list_is_one():
    scores = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    relevant = torch.tensor([[False, False, False], [True, True, False]])
    got = ranking_metrics(scores, relevant, torch.ones_like(relevant), generator())
    assert all(bool(v[0].isnan()) and float(v[1]) == 1.0 for v in got.values())


def test_a_score_that_is_no_number_ranks_last():
    """A model that fails for some items, or for all, must not look like a good one."""
    nan = math.nan
    relevant = torch.zeros(2, 30, dtype=torch.bool)
    relevant[:, 0] = True
    scores = torch.arange(30.0).repeat(2, 1)
    scores[0, 0], scores[1, 1:25] = nan, nan
    got = ranking_metrics(scores, relevant, torch.ones_like(relevant), generator())
    assert got["mrr"].tolist() == pytest.approx([1 / 30, 1 / 6])  # five numbers are above that of the second
    assert got["recall@20"].tolist() == [0.0, 1.0]
    assert ndcg(scores, relevant, torch.ones_like(relevant)).tolist() == pytest.approx([0.0, 1 / math.log2(7)])
    every = torch.full((1, 30), nan).expand(400, -1)
    own = torch.zeros(400, dtype=torch.int64)
    blind = choice_metrics(every, own, torch.ones_like(every, dtype=torch.bool), generator())
    assert float(blind["hit@10"].mean()) == pytest.approx(1 / 3, abs=0.08)
    taken = choice_metrics(scores, own[:2], torch.ones_like(relevant), generator())
    assert taken["mrr"].tolist() == pytest.approx([1 / 30, 1 / 6])


def test_a_rating_that_is_no_number_is_predicted_lowest():
    label = torch.tensor([[5.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    predicted = torch.tensor([[math.nan, 1.0, 2.0, 3.0, 4.0, 5.0]])
    got = rating_metrics(predicted, label, torch.ones_like(label, dtype=torch.bool), 1, 5)
    assert math.isinf(float(got["rmse"])) and math.isinf(float(got["mae"]))
    last = rating_metrics(predicted.nan_to_num(-9.0), label, torch.ones_like(label, dtype=torch.bool), 1, 5)
    assert float(got["ndcg@5"]) == float(last["ndcg@5"]) < 0.1


def expectation(scores, relevant, draws=4000):
    """Metrics of one task under random order of ties, by drawing."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(draws):
        order = np.lexsort((rng.random(len(scores)), -scores)).tolist()
        made.append(naive_ranking(order, relevant))
    return {m: np.mean([x[m] for x in made]) for m in RANKING}


@pytest.mark.parametrize("levels", [1, 3, 8])
def test_ties_are_broken_at_random(levels):
    """With many ties the mean over generators is the expectation over orders; nothing inherits the items' order."""
    rng = np.random.default_rng(levels)
    scores = rng.integers(0, levels, 40).astype(np.float32)
    relevant = {1, 2, 5}  # early items: inheriting the order would flatter
    mask = torch.zeros(1, 40, dtype=torch.bool)
    mask[0, list(relevant)] = True
    g = generator()
    got = [ranking_metrics(torch.from_numpy(scores)[None], mask, torch.ones_like(mask), g) for _ in range(1500)]
    wanted = expectation(scores, relevant)
    for name in RANKING:
        assert np.mean([float(x[name]) for x in got]) == pytest.approx(wanted[name], abs=0.035), name


def test_a_constant_scores_chance():
    """n items, m relevant: Recall@20 = 20/n, P(hit) by the hypergeometric, MRR = E[1 / first], nDCG by linearity."""
    n, m = 50, 4
    mask = torch.zeros(1, n, dtype=torch.bool)
    mask[0, :m] = True
    g = generator(1)
    got = [ranking_metrics(torch.zeros(1, n), mask, torch.ones_like(mask), g) for _ in range(3000)]
    mean = {name: np.mean([float(x[name]) for x in got]) for name in RANKING}
    first = [math.comb(n - r, m - 1) / math.comb(n, m) for r in range(1, n - m + 2)]
    gains = [1 / math.log2(p + 2) for p in range(10)]
    assert mean["recall@20"] == pytest.approx(20 / n, abs=0.02)
    assert mean["hit@10"] == pytest.approx(1 - math.comb(n - 10, m) / math.comb(n, m), abs=0.04)
    assert mean["mrr"] == pytest.approx(sum(p / r for r, p in enumerate(first, 1)), abs=0.02)
    assert mean["ndcg@10"] == pytest.approx(sum(gains) * m / n / sum(gains[:m]), abs=0.02)


def naive_rating(predicted, label, low, high, draws=1):
    clipped = [min(max(p, low), high) for p in predicted]
    values = sorted(set(predicted), reverse=True)
    gain = [2.0**y - 1 for y in label]
    expected = []
    for v in values:  # each place of a tied group has the group's mean gain in expectation
        group = [g for g, p in zip(gain, predicted, strict=True) if p == v]
        expected += [sum(group) / len(group)] * len(group)
    dcg = sum(g / math.log2(p + 2) for p, g in enumerate(expected[:5]))
    ideal = sum(g / math.log2(p + 2) for p, g in enumerate(sorted(gain, reverse=True)[:5]))
    n = len(label)
    return {
        "rmse": sum((p - y) ** 2 for p, y in zip(clipped, label, strict=True)) / n,
        "mae": sum(abs(p - y) for p, y in zip(clipped, label, strict=True)) / n,
        "ndcg@5": dcg / ideal if ideal > 0 else 1.0,
    }


@settings(max_examples=60)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(-2, 8), st.integers(-2, 5)), min_size=1, max_size=9), min_size=1, max_size=5
    )
)
def test_rating_equals_a_loop_over_tasks(tasks):
    """Few distinct predictions, so ties abound; labels below 0; padding between and after is never looked at."""
    width = max(len(t) for t in tasks) + 2
    predicted, label = torch.full((len(tasks), width), torch.nan), torch.full((len(tasks), width), 99.0)
    mask = torch.zeros(len(tasks), width, dtype=torch.bool)
    for t, rows in enumerate(tasks):
        for column, (p, y) in enumerate(rows):
            predicted[t, column], label[t, column], mask[t, column] = p, y, True
    got = rating_metrics(predicted, label, mask, 1, 5)
    for t, rows in enumerate(tasks):
        wanted = naive_rating([float(p) for p, _ in rows], [float(y) for _, y in rows], 1, 5)
        for name in RATING:
            assert float(got[name][t]) == pytest.approx(wanted[name], rel=1e-4, abs=1e-5), name


def test_a_constant_rating_does_not_inherit_the_order_of_the_rows():
    up, down = torch.tensor([[1.0, 2, 3, 4, 5, 5]]), torch.tensor([[5.0, 5, 4, 3, 2, 1]])
    mask = torch.ones_like(up, dtype=torch.bool)
    one, other = (rating_metrics(torch.full_like(x, 3.0), x, mask, 1, 5)["ndcg@5"] for x in (up, down))
    assert float(one) == pytest.approx(float(other)) and float(one) < 0.9


def test_a_task_without_query_rows_leaves():
    got = rating_metrics(torch.zeros(2, 3), torch.ones(2, 3), torch.tensor([[True] * 3, [False] * 3]), 1, 5)
    assert all(not bool(v[0].isnan()) and bool(v[1].isnan()) for v in got.values())
    assert all(v.isnan().all() for v in rating_metrics(*torch.zeros(2, 2, 0), torch.zeros(2, 0) > 0, 1, 5).values())


def test_without_a_range_predictions_are_not_clipped():
    one = torch.ones(1, 1, dtype=torch.bool)
    got = rating_metrics(torch.tensor([[9.0]]), torch.tensor([[5.0]]), one, -math.inf, math.inf)
    assert float(got["rmse"]) == 16 and float(got["mae"]) == 4


# What may be concluded


def test_summary_leaves_out_nan_and_takes_the_root_of_the_mean_square():
    values = np.array([1.0, np.nan, 9.0])
    assert summarise("mae", values).value == 5 and summarise("mae", values).n == 2
    assert summarise("rmse", values).value == pytest.approx(math.sqrt(5))
    assert summarise("rmse", values).low <= math.sqrt(5) <= summarise("rmse", values).high
    none = summarise("mae", np.array([np.nan]))
    assert none.n == 0 and math.isnan(none.value) and math.isnan(none.low)
    assert "rmse" in LOWER_IS_BETTER and "ndcg@10" not in LOWER_IS_BETTER


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for i in range(300):
        interval = summarise("mrr", rng.exponential(1.0, 80), seed=i, draws=400)
        inside += interval.low <= 1.0 <= interval.high
    assert 0.87 < inside / 300 < 0.985  # bootstrap percentiles of skewed data cover a little less than 95%


def test_intervals_shrink_with_the_root_of_n_and_depend_on_the_seed_only():
    values = np.random.default_rng(0).normal(size=6400)
    wide, narrow = summarise("mae", values[:400]), summarise("mae", values)
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(4, rel=0.25)
    assert summarise("mae", values, seed=3) == summarise("mae", values, seed=3) != summarise("mae", values, seed=4)


def test_blocks_of_the_bootstrap_leave_no_draw_out():
    values = np.random.default_rng(0).normal(size=9000)  # 4 000 000 / 9000 = 444 draws a block
    interval = summarise("mae", values, draws=1000)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / math.sqrt(9000), rel=0.12)
    got = paired_difference(values + 1, np.ones(9000), draws=1000)
    assert got.high - got.low == pytest.approx(2 * 1.96 / math.sqrt(9000), rel=0.12)


def test_seeds_are_averaged_after_each_is_finished():
    seeds = [np.array([1.0, 1.0, np.nan]), np.array([9.0, 9.0]), np.array([np.nan])]
    got = summarise_seeds("rmse", seeds)
    assert got.value == got.low == got.high == 2.0 and got.n == 4
    rng = np.random.default_rng(0)
    one = summarise_seeds("mae", [rng.normal(size=500)])
    four = summarise_seeds("mae", [rng.normal(size=500) for _ in range(4)])
    assert (one.high - one.low) / (four.high - four.low) == pytest.approx(2, rel=0.25)
    assert summarise_seeds("mae", [np.array([np.nan])]).n == 0


def test_pairing_finds_a_planted_difference_that_unpaired_intervals_hide():
    rng = np.random.default_rng(0)
    hard = rng.normal(size=300)  # entities differ much more than methods do
    ours, theirs = hard + 0.05 + 0.1 * rng.normal(size=300), hard
    got = paired_difference(ours, theirs)
    assert got.p < 0.001 and got.low > 0 and got.difference == pytest.approx(0.05, abs=0.02) and got.n == 300
    a, b = summarise("mae", ours), summarise("mae", theirs)
    assert a.low < b.high
    worse = paired_difference(theirs, ours)
    assert worse.high < 0 and worse.p < 0.001


def test_noise_is_called_a_difference_about_as_often_as_promised():
    rng = np.random.default_rng(1)
    p = np.array([paired_difference(rng.normal(size=40), rng.normal(size=40), seed=i, draws=300).p for i in range(300)])
    assert (p < 0.05).mean() < 0.1 and (p < 0.5).mean() == pytest.approx(0.5, abs=0.12)


def test_pairs_with_a_nan_leave_and_equal_methods_do_not_differ():
    got = paired_difference(np.array([1.0, np.nan, 3.0]), np.array([1.0, 2.0, np.nan]))
    assert (got.n, got.difference, got.p) == (1, 0.0, 1.0)
    assert paired_difference(np.array([np.nan]), np.array([1.0])).n == 0


@pytest.mark.parametrize("depth", [3, 10])
def test_ndcg_alone_is_the_one_among_the_metrics(depth):
    scores, relevant, shown = task(np.random.default_rng(0), 60, 30)
    got = ndcg(scores, relevant, shown, depth)
    if depth == 10:
        wanted = ranking_metrics(scores, relevant, shown, generator())["ndcg@10"]
        torch.testing.assert_close(got, wanted, equal_nan=True)
    some = ~got.isnan()
    cut = torch.where(shown, scores, -torch.inf).topk(depth, 1).indices
    assert torch.equal(got[some] > 0, (relevant & shown).gather(1, cut).any(1)[some])


def test_a_choice_is_ranked_among_what_is_shown():
    scores = torch.tensor([[3.0, 5.0, 4.0, 9.0], [1.0, 0.0, 0.0, 0.0]])
    shown = torch.tensor([[True, True, True, False], [True, True, True, True]])
    values = choice_metrics(scores, torch.tensor([0, 0]), shown, generator())
    assert values["mrr"].tolist() == pytest.approx([1 / 3, 1.0])  # the fourth of the first row is not shown
    assert values["ndcg@10"].tolist() == pytest.approx([1 / math.log2(4), 1.0])


def test_ties_of_a_choice_are_broken_at_random():
    scores, own = torch.zeros(4000, 100), torch.zeros(4000, dtype=torch.int64)
    values = choice_metrics(scores, own, torch.ones(4000, 100, dtype=torch.bool), generator())
    assert float(values["hit@10"].mean()) == pytest.approx(0.1, abs=0.02)


def test_an_infinite_error_makes_the_mean_none_instead_of_leaving():
    values = np.array([1.0, np.inf, np.nan, 2.0])
    for interval in (summarise("mae", values), summarise_seeds("mae", [values, np.ones(4)])):
        assert np.isnan([interval.value, interval.low, interval.high]).all() and interval.n in (3, 7)
    difference = paired_difference(values, np.ones(4))
    assert math.isnan(difference.difference) and (difference.p, difference.n) == (1.0, 3)
    both = paired_difference(values, values)
    assert math.isnan(both.difference) and both.n == 3


def test_one_entity_has_an_interval_of_its_value():
    interval = summarise("rmse", np.array([4.0, np.nan]))
    assert (interval.value, interval.low, interval.high, interval.n) == (2.0, 2.0, 2.0, 1)
