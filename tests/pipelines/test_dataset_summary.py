"""The summary of several data sets, on comparisons whose outcomes are known."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from pipelines.experiments.comparison import Comparison, MethodCurves
from pipelines.experiments.comparison_tests import verdict
from pipelines.experiments.dataset_summary import (
    DatasetFailure,
    DatasetSummary,
    method_family,
    outcome_labels,
    outcome_of,
    scenario_labels,
)
from pipelines.experiments.summary_report import largest_loss_line, plot_panels, rank_table, summary_page, verdict_table
from recsys_meta.evaluation.curve import ColdStartCurve
from recsys_meta.metrics.ranking_metrics import LOWER_IS_BETTER

ENTITIES, SEEDS = 60, 2


def comparison(dataset, metric, levels, shots=(0, 1, 5), scenario="new-users/time-support/split-by-seed", noise=0.01):
    """A comparison in which each newcomer has about the level of the method at the point; NaN is a failed prediction.

    The first method is the first learner; names with a star are baselines.
    """
    rng = np.random.default_rng(0)
    own = rng.normal(scale=0.1, size=(SEEDS, ENTITIES))
    methods = []
    for name, values in levels.items():
        role = "baseline" if name.endswith("*") else "flagship" if name.startswith("flagship") else "learner"
        curves = {
            seed: ColdStartCurve(
                name,
                np.arange(ENTITIES),
                {
                    k: {metric: np.where(np.isnan(v), np.inf, v) + own[seed] + rng.normal(scale=noise, size=ENTITIES)}
                    for k, v in zip(shots, values, strict=True)
                },
            )
            for seed in range(SEEDS)
        }
        methods.append(MethodCurves(name.rstrip("*"), role, curves))
    return Comparison(dataset, scenario, (metric,), shots, methods)


def summary(*results, failures=()):
    return DatasetSummary([outcome_of(r, f"data/{r.dataset}") for r in results], list(failures))


LEVELS = {"flagship": (0.50, 0.60, 0.80), "popular*": (0.60, 0.60, 0.60), "best*": (0.40, 0.50, 0.70)}


@pytest.mark.parametrize("metric", ["ndcg@10", "logloss"])
def test_a_win_is_an_interval_above_zero_in_the_good_direction(metric):
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    # Neither method is better where both have the same level, whatever the seed: the noise of each is drawn apart.
    outcome = outcome_of(comparison("a", metric, {m: tuple(sign * v for v in row) for m, row in LEVELS.items()}), "a")
    assert [(p.paired.against, p.verdict) for p in outcome.points] == [
        ("popular", "loss"), ("popular", "tie"), ("best", "win"),
    ]  # fmt: skip
    assert [p.relative for p in outcome.points] == pytest.approx([-0.1 / 0.6, 0, 0.1 / 0.7], abs=0.02)
    assert outcome.largest_loss is outcome.points[0]
    assert (outcome.learner, outcome.shots_with("win"), outcome.shots_with("loss")) == ("flagship", [5], [0])


def test_a_difference_of_rounding_is_a_tie():
    # Ratings that are all alike: predictions differ in the last bits, for every newcomer in the same direction.
    assert verdict("rmse", 5e-10, 5e-10, 6e-10) == "open"
    # Labels of a thousandth have squared errors of a millionth, whose differences count.
    assert [verdict("rmse", d, d, d) for d in (2e-8, -2e-8)] == ["worse", "better"]
    assert [verdict("logloss", d, d, d) for d in (5e-7, 2e-6)] == ["open", "worse"]


def test_a_prediction_that_is_not_a_number_is_neither_tie_nor_loss_and_ranks_last():
    levels = {"flagship": (math.nan, 0.6, 0.8), "popular*": (0.5, 0.5, 0.5), "other*": (0.4, 0.4, 0.4)}
    whole = summary(comparison("a", "ndcg@10", levels))
    assert [p.verdict for p in whole.outcomes[0].points] == ["undefined", "win", "win"]
    assert {m.method: m.mean_rank for m in whole.mean_ranks()} == {
        "flagship": pytest.approx(5 / 3), "popular": pytest.approx(5 / 3), "other": pytest.approx(8 / 3),
    }  # fmt: skip
    content = whole.as_json()
    assert content["total"] == {"wins": 2, "ties": 0, "losses": 0, "undefined": 1}
    assert content["outcomes"][0]["points"][0]["difference"] is None
    json.dumps(content, allow_nan=False)


def test_a_point_that_nobody_reaches_counts_nowhere():
    result = comparison("a", "ndcg@10", LEVELS)
    for m in result.methods:
        for curve in m.curves.values():
            curve.values[5]["ndcg@10"][:] = np.nan
    whole = summary(result)
    assert {(m.points, m.datasets) for m in whole.mean_ranks()} == {(2, 1)}
    assert whole.outcomes[0].shots_with("undefined") in ([5], [])
    assert whole.count("win") == 0


def test_ranks_are_means_over_all_points_of_all_data_sets():
    more = {"flagship-click": (0.3, 0.5), "popular*": (0.4, 0.4), "counts*": (0.5, 0.3)}
    whole = summary(comparison("a", "ndcg@10", LEVELS), comparison("b", "logloss", more, shots=(0, 20)))
    ranks = {m.method: m for m in whole.mean_ranks()}
    by_hand = {
        "flagship": [2, None, 1, 1, 3],  # None: a tie of levels, that noise decides
        "popular": [1, None, 3, 2, 2],
        "best": [3, 3, 2],
        "counts": [3, 1],
    }
    values = {m.name: [i.value for i in m.points] for m in whole.outcomes[0].methods}
    ahead = values["flagship"][1] > values["popular"][1]
    by_hand["flagship"][1], by_hand["popular"][1] = (1, 2) if ahead else (2, 1)
    assert {name: m.mean_rank for name, m in ranks.items()} == {
        name: pytest.approx(np.mean(rank)) for name, rank in by_hand.items()
    }
    assert (ranks["flagship"].points, ranks["flagship"].datasets, ranks["counts"].datasets) == (5, 2, 1)
    assert ranks["best"].mean_methods == 3
    assert [m.mean_rank for m in whole.mean_ranks()] == sorted(m.mean_rank for m in whole.mean_ranks())


def test_equal_values_share_a_rank():
    result = comparison("a", "ndcg@10", LEVELS)
    twin = result.methods[0]
    result.methods.insert(1, MethodCurves("flagship-unadapted", "learner", twin.curves))
    ranks = {m.method: m.mean_rank for m in summary(result).mean_ranks()}
    assert ranks["flagship"] == ranks["flagship-unadapted"]
    assert sum(ranks.values()) == pytest.approx(1 + 2 + 3 + 4)


def test_the_largest_loss_is_the_largest_share_of_the_baseline():
    small = {"flagship": (0.5, 0.5), "base*": (0.49, 0.46)}  # log-loss: worse by 2% and by 9%
    large = {"flagship": (4.0, 5.0), "base*": (4.1, 5.1)}  # RMSE stands on squared errors: better is lower, so wins
    ranking = {"flagship": (0.30, 0.50), "base*": (0.31, 0.52)}  # nDCG: worse by 3% and by 4%
    whole = summary(
        comparison("clicks", "logloss", small, (0, 20)),
        comparison("stars", "mae", large, (0, 1)),
        comparison("films", "ndcg@10", ranking, (0, 1)),
    )
    outcome, loss = whole.largest_loss
    assert (outcome.dataset, loss.paired.shots) == ("clicks", 20)
    content = whole.as_json()["largest_loss"]
    assert (content["dataset"], content["shots"], content["against"]) == ("clicks", 20, "base")
    assert content["low"] < content["difference"] < content["high"]
    assert content["difference"] == pytest.approx(0.04, abs=0.01)
    assert largest_loss_line(whole).startswith("Largest loss: clicks, log-loss: +0.0")
    assert [o["losses"] for o in whole.as_json()["outcomes"]] == [2, 0, 2]


def test_of_rmse_the_share_is_of_squared_errors():
    result = comparison("stars", "rmse", {"flagship": (1.21,), "base*": (1.0,)}, (0,))
    (point,) = outcome_of(result, "stars").points
    assert point.verdict == "loss" and point.relative == pytest.approx(-0.21, abs=0.02)


def test_without_a_loss_or_without_baselines_the_summary_says_so():
    winning = summary(comparison("a", "ndcg@10", {"flagship": (0.6,), "base*": (0.5,)}, (0,)))
    assert winning.largest_loss is None and winning.as_json()["largest_loss"] is None
    assert largest_loss_line(winning) == "No loss at any of 1 points"
    alone = summary(comparison("a", "ndcg@10", {"flagship": (0.6,)}, (0,)))
    assert alone.as_json()["total"] == {"wins": 0, "ties": 0, "losses": 0, "undefined": 0}
    assert [m.mean_rank for m in alone.mean_ranks()] == [1.0]
    assert "No point" in largest_loss_line(alone)
    assert DatasetSummary(failures=[DatasetFailure("x", "gone")]).as_json()["mean_ranks"] == []


def test_labels_name_the_scenario_only_where_it_differs():
    corners = [comparison("a", "ndcg@10", LEVELS, scenario=f"{c}/random-support") for c in ("new-new", "known-new")]
    whole = summary(*corners, comparison("b", "ndcg@10", LEVELS))
    assert outcome_labels(whole.outcomes) == ["a, new-new", "a, known-new", "b"]
    actors = [f"new-cities/actors-support/split-by-folds/{part}" for part in ("100-negatives", "full")]
    assert scenario_labels(actors) == ["100-negatives", "full"]
    assert scenario_labels(["new-users/time-support"]) == ["new-users"]


@pytest.mark.parametrize(
    ("name", "family"),
    [("flagship", "flagship"), ("flagship-click", "flagship"), ("flagship-choice-unadapted", "flagship-unadapted"),
     ("flagship-of-mine", "flagship-of-mine"), ("popularity", "popularity")],
)  # fmt: skip
def test_the_flagships_of_all_objectives_are_one_method(name, family):
    assert method_family(name) == family


def test_page_and_figure_show_every_data_set_and_every_failure():
    more = {"flagship-click": (0.3, 0.5), "popular*": (0.4, 0.4)}
    results = [comparison("<films>", "ndcg@10", LEVELS), comparison("ads", "logloss", more, shots=(0, 20))]
    one = plot_panels(summary(results[0]).outcomes)
    whole = summary(*results, failures=[DatasetFailure("lost", "no such <file>")])
    png = plot_panels(whole.outcomes)
    assert one.startswith(b"\x89PNG") and _width(png) > 1.5 * _width(one), "a panel for each data set"
    page = summary_page(whole, ["films", "ads"], "recsys-meta compare", png)
    assert "no such &lt;file&gt;" in page and '<a href="films/report.html">&lt;films&gt;</a>' in page
    assert "<films>" not in page and re.search(r'src="data:image/png;base64,[A-Za-z0-9+/=]{1000}', page)
    assert "http" not in page, "it loads nothing from elsewhere"
    assert verdict_table(whole).row_count == 3 and rank_table(whole).row_count == 3


def _width(png):
    return int.from_bytes(png[16:20], "big")
