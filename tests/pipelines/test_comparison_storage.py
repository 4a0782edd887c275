"""What a comparison stores: the documented queries give the figures of its report to the digit, on either database."""

import html
import json
import re
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sqlalchemy import text

from pipelines.experiments.comparison import Comparison, MethodCurves
from pipelines.experiments.comparison_storage import store_comparison
from pipelines.experiments.newcomer_results import MOST_RANDOM, MOST_WORST
from pipelines.experiments.report import report_page
from pipelines.workspace import Workspace
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.evaluation.cold_start import cold_start
from recsys_meta.evaluation.newcomers import describe_newcomers, item_popularity
from recsys_meta.store.database.engine import connect
from recsys_meta.store.entities.entities import erase_entity
from recsys_meta.store.entities.newcomer_results import prune_newcomer_results
from recsys_meta.store.tracking.evaluations import page_evaluations, prune_evaluations
from recsys_meta.store.tracking.paired_tests import curve_tests, prune_paired_tests
from recsys_meta.store.tracking.segment_tables import segment_tables
from recsys_meta.store.tracking.version_curve import version_curve
from tests.fixtures.migrated_databases import (  # noqa: F401  (fixtures are found by name)
    database_url,
    migrated_file,
    migrated_schema,
    migrated_sqlite,
    schema_pool,
)
from tests.fixtures.services import (  # noqa: F401  (fixtures are found by name)
    empty_url,
    postgres_server,
    postgres_url,
    sqlite_url,
)
from tests.fixtures.simulated_datasets import dataset
from tests.fixtures.small_datasets import ByRow
from tests.store.database.test_documented_queries import query
from tests.store.samples import later

SHOTS, SEEDS, COUNT = (0, 3), (0, 1), 90


@pytest.fixture(scope="module")
def result() -> Comparison:
    """Two seeds of scores that know more or less of the truth; of three newcomers two have a gender."""
    rng = np.random.default_rng(0)
    rows = [rng.permutation(30)[: rng.integers(5, 12)] for _ in range(COUNT)]
    genders = [[e % 3] if e % 3 else [] for e in range(COUNT)]
    features = (("gender", genders), ("row", np.arange(COUNT, dtype=float)))
    data = dataset("shop", "ranking", rows, [np.ones(len(r)) for r in rows], entity_features=features)
    index, everybody = EventIndex.of(data), np.arange(COUNT)
    truth = torch.zeros(COUNT, data.catalogue)
    task, item, _ = index.of_entities(everybody)
    truth[task, item] = 1.0
    made = Comparison("shop", "new", ("ndcg@10", "mrr"), SHOTS)
    methods = {"flagship": 1.0, "flagship-unadapted": 0.7, "popularity": 0.6, "itemknn": 0.9}
    for name, knows in methods.items():
        curves = {}
        for seed in SEEDS:
            noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(seed * 10 + len(name)))
            scores = ByRow(knows * truth + noise, name)
            curves[seed] = cold_start(scores, {}, data, index, everybody, shots=SHOTS)
        role = "flagship" if name == "flagship" else "learner" if "flagship" in name else "baseline"
        made.methods.append(MethodCurves(name, role, curves))
    popularity = item_popularity(data, index, everybody)
    for seed in SEEDS:
        made.newcomers[seed] = describe_newcomers(data, index, everybody, popularity, shots=SHOTS)
    return made


@pytest.fixture
def workspace(database_url):  # noqa: F811
    made = Workspace()
    made.engine = connect(database_url)
    yield made
    made.engine.dispose()


def rows_of(workspace, words):
    with workspace.reading() as session:
        return session.execute(text(query(words).replace(":model", ":dataset")), {"dataset": "shop"}).all()


def test_queries_give_the_figures_of_the_report(result, workspace):
    store_comparison(workspace, [result])
    page = html.unescape(re.sub(r"<[^>]*>", "|", report_page(result, "compare", b"", None)))
    cells = {(r.method, r.metric, r.shots): r for r in rows_of(workspace, "to the digit")}
    assert len(cells) == 4 * 2 * 2
    for method in result.methods:
        for shots in SHOTS:
            assert cells[method.name, "ndcg@10", shots].value == result.mean(method, shots, "ndcg@10")
    tests = [r for r in rows_of(workspace, "and its paired tests") if r.metric == "ndcg@10"]
    # Three against the best baseline and one against itself without adapting, at each point.
    assert len(tests) == 2 * 4 and {(r.seeds, r.reference) for r in tests} == {(2, "baseline"), (2, "unadapted")}
    printed = {(v.shots, v.difference, v.low, v.high, v.p, v.n) for v in result.against_best_baseline("ndcg@10")}
    stored = {(r.shots, r.difference, r.low, r.high, r.p, r.n) for r in tests
              if (r.method, r.reference) == ("flagship", "baseline")}  # fmt: skip
    assert stored == printed
    for r in tests:
        if r.method.startswith("flagship"):
            assert f"|{r.against}||{r.difference:+.3f}||{r.low:+.3f} to {r.high:+.3f}||{r.p:.4f}||{r.n}|" in page
    helped = [r for r in tests if r.reference == "unadapted"]
    assert all(r.verdict == "better" and r.low > 0 for r in helped)


def test_groups_are_compared_with_themselves_unadapted(result, workspace):
    store_comparison(workspace, [result])
    groups = rows_of(workspace, "help least")
    assert {r.part for r in groups if r.segment == "gender"} == {"gender1", "gender2"}
    own, plain = (m.curves for m in result.methods[:2])
    for part, rest in (("gender1", 1), ("gender2", 2)):
        (row,) = (r for r in groups if (r.segment, r.part, r.shots) == ("gender", part, 3))
        mask = np.arange(COUNT) % 3 == rest
        # Seeds of one split count each newcomer once.
        means = [np.mean([c[s].at(3, "ndcg@10") for s in SEEDS], axis=0)[mask] for c in (own, plain)]
        assert (row.n, row.difference) == (mask.sum(), pytest.approx(np.mean(means[0] - means[1])))
        assert (row.value, row.unadapted) == (pytest.approx(means[0].mean()), pytest.approx(means[1].mean()))
    page = report_page(result, "compare", b"", None)
    assert "By group of newcomers" in page and "support popularity, by events known" in page
    (gender,) = (t for t in segment_tables(result.tests) if t.segment == "gender")
    assert set(gender.parts["gender1"][3]) == {"baseline", "unadapted"}


def test_newcomers_are_a_bounded_sample_with_those_that_gained_least(result, workspace):
    store_comparison(workspace, [result])
    worst = rows_of(workspace, "Which newcomers gained least")
    assert [r.place for r in worst if (r.shots, r.seed) == (3, 0)] == list(range(1, 11))
    own, plain = (method.curves for method in result.methods[:2])
    gains = {seed: own[seed].at(3, "ndcg@10") - plain[seed].at(3, "ndcg@10") for seed in SEEDS}
    for row in worst:
        if row.shots == 3:
            number = int(row.entity.removeprefix("e"))
            features = json.loads(row.features) if isinstance(row.features, str) else row.features
            assert row.gain == pytest.approx(gains[row.seed][number])
            assert row.gain == pytest.approx(np.sort(gains[row.seed])[row.place - 1])
            assert (features["row"], "gender" in features) == (number, number % 3 > 0)
    common = rows_of(workspace, "in common")
    assert {r.adapting for r in common} >= {"harmed", "helped"}
    assert sum(r.newcomers for r in common if r.shots == 3) <= MOST_RANDOM
    by_gender = rows_of(workspace, "by any feature")
    assert sum(r.newcomers for r in by_gender) == sum(r.newcomers for r in common)
    with workspace.reading() as session:
        most = session.execute(text("SELECT shots, count(*) AS n FROM newcomer_results GROUP BY shots")).all()
    assert all(r.n <= MOST_RANDOM + MOST_WORST for r in most)


def test_who_was_erased_is_not_written_again(result, workspace):
    store_comparison(workspace, [result])
    worst = rows_of(workspace, "Which newcomers gained least")[0]
    with workspace.session() as session:
        erase_entity(session, worst.kind, worst.entity)
    counting = text("SELECT count(*) FROM newcomer_results WHERE entity = :entity")
    for _ in range(2):
        with workspace.reading() as session:
            assert session.scalar(counting, {"entity": worst.entity}) == 0
            assert session.scalar(text("SELECT count(*) FROM newcomer_results")) > 0
        store_comparison(workspace, [result])


def test_a_versions_tests_outlive_pruning_and_its_page_finds_them(result, workspace):
    mine = replace(result.methods[0], curves={0: result.methods[0].curves[0]}, versions={0: "v1"})
    others = [replace(m, curves={0: m.curves[0]}) for m in result.methods[1:]]
    one = Comparison("shop", "new", result.metrics, SHOTS, [mine, *others], newcomers={0: result.newcomers[0]})
    store_comparison(workspace, [one], "shop-model")
    store_comparison(workspace, [result])
    with workspace.session() as session:
        curve = version_curve(session, "shop-model", "v1")
        tests = curve_tests(session, curve)
        assert tests[0].segment is None and {t.method for t in tests} == {"flagship"}
        assert segment_tables(tests) and {t.seeds for t in tests} == {1}
        assert prune_paired_tests(session, later(0)) == 0
        ahead = later(10**10)
        assert prune_paired_tests(session, ahead) == len(result.tests)
        assert prune_newcomer_results(session, ahead) > 0
        assert prune_evaluations(session, later(0)) == 0
        points = len(page_evaluations(session, limit=1000).items)
        removed = prune_evaluations(session, ahead)
        kept = page_evaluations(session, limit=1000).items
        assert 0 < removed == points - len(kept)
        assert {point.created for point in kept} == {curve.created} and len({point.method for point in kept}) > 1
        assert curve_tests(session, curve) and version_curve(session, "shop-model", "v1") == curve


def test_every_newcomer_is_in_the_file_and_nobody_is_named(result, workspace, tmp_path):
    store_comparison(workspace, [result], bundles={1: tmp_path / "abc"})
    table = pq.read_table(tmp_path / "newcomers-abc.parquet")
    assert table.schema.metadata[b"data_digest"] == b"shop"
    rows = table.to_pandas()
    mine = rows[(rows.method == "flagship") & (rows.metric == "mrr") & (rows.shots == 3)]
    values = result.methods[0].curves[1].at(3, "mrr")
    assert dict(zip(mine.entity, mine.value, strict=True)) == {e: v for e, v in enumerate(values) if v == v}
    assert set(mine.support_size) == {3} and set(rows.seed) == {1}
    points = [m.curves[1].at(k, name) for m in result.methods for k in SHOTS for name in result.metrics]
    assert len(rows) == sum((~np.isnan(values)).sum() for values in points)
    assert not any("e61" in str(column.unique()) for column in (rows.scenario, rows.method, rows.metric))
    assert rows.entity.dtype == np.int64
