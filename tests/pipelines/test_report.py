"""Reports of a comparison: what is bold, which tests they show, and that they load nothing from elsewhere."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pipelines import console
from pipelines.commands import comparison_output
from pipelines.experiments.comparison import Comparison, MethodCost, MethodCurves
from pipelines.experiments.paper_tables import latex_table, markdown_table
from pipelines.experiments.report import curve_table, write_plots, write_report
from pipelines.experiments.training_report import plot_courses
from recsys_meta.evaluation.curve import ColdStartCurve

SHOTS, METRIC = (0, 5), "ndcg@10"


def curves(name, role, *means):
    """A method whose values over forty newcomers scatter around the mean of each point."""
    noise = np.linspace(-0.1, 0.1, 40)
    values = {k: {METRIC: np.full(40, mean) + noise} for k, mean in zip(SHOTS, means, strict=True)}
    return MethodCurves(name, role, {0: ColdStartCurve(name, np.arange(40), values)}, versions={0: "abc123"})


@pytest.fixture
def result():
    return Comparison(
        "shop",
        "new",
        (METRIC,),
        SHOTS,
        [
            curves("flagship", "flagship", 0.2, 0.6),
            curves("flagship-unadapted", "learner", 0.2, 0.3),
            curves("item_knn & co", "baseline", 0.4, 0.5),
        ],
    )


def test_the_best_value_is_bold_and_not_our_row(result):
    head, _, flagship, _, knn = markdown_table(result, METRIC).splitlines()
    assert head == "| events known | 0 | 5 |"
    assert flagship == "| flagship | 0.200 | **0.600** |"
    assert knn == "| item_knn & co | **0.400** | 0.500 |"
    latex = latex_table(result, METRIC)
    assert r"item\_knn \& co & \textbf{0.400} & 0.500 \\" in latex
    assert latex.count(r"\textbf") == 2


def test_a_report_says_what_was_tested_and_loads_nothing(result, tmp_path):
    names = {path.name for path in write_report(result, tmp_path, "recsys-meta compare")}
    assert names == {"cold_start.png", "report.html", "report.md", "report.tex"}
    page = (tmp_path / "report.html").read_text()
    assert re.findall(r'class="best">(\d\.\d+)', page) == ["0.600", "0.400"]
    assert "events known of the newcomer" in page and "Spread over newcomers" in page
    for title in ("Against the best baseline", "Against the same without adapting"):
        assert title in page
    assert "abc123" in page and "recsys-meta compare" in page
    assert not re.search('(src|href)="(?!data:)', page)


def test_the_table_says_what_adapting_adds_and_that_supports_leave_the_catalogue(result, tmp_path):
    """A curve of rankings falls where supports leave the catalogue; what adapting adds rises."""
    assert result.gains_of_adapting(METRIC) == pytest.approx([0.0, 0.3])
    table = curve_table(result, METRIC)
    (row,) = zip(*(list(column.cells)[-2:-1] for column in table.columns), strict=True)
    assert row == ("adapting adds", "+0.000", "+0.300")
    for objective, is_said in (("ranking", True), ("click", False)):
        result.bundle = SimpleNamespace(schema=SimpleNamespace(objective=objective))
        write_report(result, tmp_path, "recsys-meta compare")
        assert ("leave the catalogue" in (tmp_path / "report.html").read_text()) == is_said
    result.methods = result.methods[2:]
    assert result.gains_of_adapting(METRIC) is None


def test_on_eighty_columns_a_table_of_six_points_is_whole(capsys, monkeypatch):
    """Costs stand in a table of their own there."""
    shots = (0, 1, 3, 5, 10, 20)
    values = {k: {METRIC: np.full(40, 0.5 + k / 100)} for k in shots}
    names = ("flagship", "flagship-unadapted", "local-popularity")
    methods = [
        MethodCurves(name, "learner", {0: ColdStartCurve(name, np.arange(40), values)}, cost=MethodCost(9.5, 1, 77, 5))
        for name in names
    ]
    result = Comparison("movielens-100k", "new-users/time-support/split-by-seed", (METRIC,), shots, methods)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(console.out, "_width", 80)
    comparison_output.print_comparison([result])
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if "│" in line) <= 80
    for name in names:
        points, cost = (re.split(r" +│ +", line.strip()) for line in lines if line.startswith(f"{name} "))
        assert points[1:] == ["0.500", "0.510", "0.530", "0.550", "0.600", "0.700"]
        assert cost[1:] == ["9.5", "1.0", "77", "5"]


def test_a_loss_that_falls_is_a_gain():
    def of(name, *means):
        made = curves(name, "learner", *means)
        values = {k: {"logloss": v[METRIC]} for k, v in made.curves[0].values.items()}
        return replace(made, curves={0: ColdStartCurve(name, np.arange(40), values)})

    loss = Comparison("shop", "new", ("logloss",), SHOTS, [of("a", 0.5, 0.4), of("a-unadapted", 0.5, 0.5)])
    assert loss.gains_of_adapting("logloss") == pytest.approx([0.0, 0.1])


def test_plots_are_images_for_papers(result, tmp_path):
    png, svg = write_plots(result, tmp_path)
    assert (png.name, svg.name) == ("cold_start_ndcg_10.png", "cold_start_ndcg_10.svg")
    assert png.read_bytes().startswith(b"\x89PNG") and b"<svg" in svg.read_bytes()


def test_courses_are_plotted_with_what_there_is_of_them():
    whole = plot_courses(
        {"loss": [(1, 3.0), (2, None), (3, 2.5)], "valid": [(2, 0.1)], "valid_on_training": [(2, 0.2)]}
    )
    assert whole.startswith(b"\x89PNG") and plot_courses({}).startswith(b"\x89PNG")
    assert whole != plot_courses({})
