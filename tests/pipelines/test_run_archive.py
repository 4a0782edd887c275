"""What a training says of its own effect, and that a run brings all of it along into another database."""

import json
import shutil

import pytest
from sqlalchemy import select, text

from pipelines.experiments.run_archive import archive_file, restore_run, write_run_archive
from pipelines.workspace import Workspace
from recsys_meta.core.errors import CheckpointError
from recsys_meta.store.settings import Settings
from recsys_meta.store.tracking import runs
from recsys_meta.store.tracking.evaluations import page_evaluations
from recsys_meta.store.tracking.tables import PairedTestRecord
from recsys_meta.store.tracking.version_curve import run_curve
from tests.pipelines.conftest import Command


def house(home) -> Workspace:
    return Workspace(Settings(home=home, database_url="", redis_url="", api_keys=""))


def points_of(workspace, run):
    with workspace.reading() as session:
        return page_evaluations(session, run=run, limit=1000).items


def test_a_training_measures_what_adapting_does_for_meta_validation(command, run):
    workspace = house(command.home)
    points = [p for p in points_of(workspace, run["run"]) if p.scenario.endswith("/meta-validation")]
    created = max(p.created for p in points)  # a resume, of another test, measures once more
    points = [p for p in points if p.created == created]
    # Other tests publish the run under more names, each with the points of the version.
    name = next(p.model for p in points if p.model_version is not None)
    points = [p for p in points if p.model_version is None or p.model == name]
    with workspace.reading() as session:
        config = runs.get_run(session, run["run"]).config
        query = select(PairedTestRecord).where(
            PairedTestRecord.created == created, PairedTestRecord.metric == "ndcg@10"
        )
        tests = session.scalars(query.order_by(PairedTestRecord.shots)).all()
        curve = run_curve(session, run["run"])
        assert curve is not None and curve.run == run["run"]
    version = run["version"]
    told = {(p.run, p.recipe, p.config_digest, p.split, p.seed, p.seeds) for p in points}
    assert told == {(run["run"], "flagship", runs.config_digest(config), "seed", 0, 1)}
    assert {(p.method, p.model_version) for p in points} == {("flagship", version), ("flagship-unadapted", None)}
    assert {p.shots for p in points} == {0, 1, 3, 5, 10, 20}
    values = {(p.method, p.shots): p.value for p in points if p.metric == "ndcg@10"}
    assert len(values) == 12 == len({id(p) for p in points if p.metric == "ndcg@10"}), "one seed is one row"
    # As the command said it, and as the database has it.
    assert [(t["shots"], t["difference"], t["p"], t["verdict"]) for t in run["adapting"]] == [
        (t.shots, t.difference, t.p, t.verdict) for t in tests
    ]
    for t in tests:
        assert (t.method, t.against, t.reference, t.segment) == ("flagship", "flagship-unadapted", "unadapted", None)
        assert (t.value, t.value_against) == (values["flagship", t.shots], values["flagship-unadapted", t.shots])
    assert tests[0].difference == 0.0


def test_published_into_another_database_the_run_comes_along(command, run, tmp_path):
    there = Command(tmp_path / "home")
    shutil.copytree(command.home / "runs" / run["run"], there.home / "runs" / run["run"])
    shutil.copytree(command.home / "data" / "simulated-users", there.home / "data" / "simulated-users")
    published = there.json("models", "publish", run["run"], "--name", "copy", "--force")
    before, after = (there_or_here.json("runs", "show", run["run"]) for there_or_here in (command, there))
    assert after == before and after["metrics"]
    workspace = house(there.home)
    old = {(p.created, p.scenario, p.method, p.shots, p.metric): p for p in points_of(house(command.home), run["run"])}
    new = {(p.created, p.scenario, p.method, p.shots, p.metric): p for p in points_of(workspace, run["run"])}
    assert new and new.keys() <= old.keys()
    for key, point in new.items():
        assert (point.value, point.low, point.high, point.n) == (
            old[key].value, old[key].low, old[key].high, old[key].n
        )  # fmt: skip
        assert (point.model, point.config_digest) == (
            "copy" if point.method == "flagship" else None, old[key].config_digest
        )  # fmt: skip
    with workspace.reading() as session:
        asked = "SELECT run FROM model_versions WHERE model = 'copy' AND version = :version"
        assert session.execute(text(asked), {"version": published["version"]}).scalar_one() == run["run"]
        assert session.scalars(select(PairedTestRecord)).first() is not None
    # Once more changes nothing; what was measured since then is archived too.
    assert restore_run(workspace, run["run"])
    assert len(points_of(workspace, run["run"])) == len(new)
    there("evaluate", "copy", "--shots", "0,3", "--json", tmp_path / "curve.json")
    third = house(tmp_path / "third")
    (third.settings.runs / run["run"]).mkdir(parents=True)
    shutil.copy(archive_file(workspace, run["run"]), archive_file(third, run["run"]))
    assert restore_run(third, run["run"])
    measured = points_of(third, run["run"])
    assert len(measured) == len(points_of(workspace, run["run"])) > len(new)
    with third.reading() as session:
        curve = run_curve(session, run["run"])
    assert curve is not None and {m.method for m in curve.methods} == {"flagship", "flagship-unadapted", "popularity"}


def test_a_damaged_archive_is_refused_and_a_missing_one_is_none(tmp_path):
    workspace = house(tmp_path)
    folder = workspace.settings.runs / "r"
    folder.mkdir(parents=True)
    assert not restore_run(workspace, "r")
    write_run_archive(workspace, "r")
    assert not archive_file(workspace, "r").exists(), "a run that the database does not know has nothing to archive"
    for content in ("[]", "{", '{"runs": [{"started": "soon"}]}', '{"runs": []}'):
        archive_file(workspace, "r").write_text(content)
        with pytest.raises(CheckpointError, match="damaged"):
            restore_run(workspace, "r")


def archived(**changes):
    """An archive of the run `r` with two figures; `table=change` is done to the rows of a table."""
    row = {"id": "r", "recipe": "maml", "dataset": "d", "learner": "maml", "config": {"rate": 0.1}, "seed": 0}
    times = {"started": "2026-01-01T00:00:00+00:00", "finished": None, "status": "finished"}
    tables = {name: [] for name in ("metrics", "latest_metrics", "curriculum", "evaluations", "paired_tests")}
    figures = [{"run": "r", "key": "loss", "step": n, "value": 0.5} for n in (1, 2)]
    tables |= {"runs": [{**row, **times}], "metrics": figures}
    for name, change in changes.items():
        change(tables[name])
    return json.dumps(tables)


def test_columns_that_may_be_missing_are_none(tmp_path):
    workspace = house(tmp_path)
    archive_file(workspace, "r").parent.mkdir(parents=True)
    archive_file(workspace, "r").write_text(archived(metrics=lambda rows: rows[1].pop("value")))
    assert restore_run(workspace, "r")
    with workspace.reading() as session:
        row = runs.get_run(session, "r")
        assert (row.config, row.device, row.reason) == ({"rate": 0.1}, None, None)
        assert [(m.step, m.value) for m in runs.run_metrics(session, "r")] == [(1, 0.5), (2, None)]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"runs": lambda rows: rows[0].update(colour="red")}, "'runs' has no column 'colour'"),
        ({"metrics": lambda rows: rows[1].update(colour="red")}, "'metrics' has no column 'colour'"),
        ({"runs": lambda rows: rows[0].pop("recipe")}, "a row of 'runs' has no 'recipe'"),
        ({"runs": lambda rows: rows[0].update(started=None)}, "a row of 'runs' has no 'started'"),
        ({"metrics": lambda rows: rows[1].pop("key")}, "a row of 'metrics' has no 'key'"),
        ({"runs": lambda rows: rows[0].update(seed="many")}, "'many' as its 'seed'"),
        ({"runs": lambda rows: rows[0].update(seed=True)}, "True as its 'seed'"),
        ({"metrics": lambda rows: rows[0].update(value=[1])}, "as its 'value'"),
        ({"runs": lambda rows: rows[0].update(started="2026-01-01")}, "time zone"),
        ({"metrics": lambda rows: rows.append(rows[0])}, "refused a row"),
        ({"metrics": lambda rows: rows[0].update(run="other")}, "another run than 'r'"),
        ({"runs": lambda rows: rows[0].update(id="other"), "metrics": list.clear}, "another run than 'r'"),
        ({"evaluations": lambda rows: rows.append({"id": 1, "dataset": "d"})}, "'evaluations' has no column 'id'"),
    ],
)  # fmt: skip
def test_an_archive_whose_rows_do_not_fit_the_tables_is_damaged_and_leaves_nothing(tmp_path, changes, what):
    workspace = house(tmp_path)
    archive_file(workspace, "r").parent.mkdir(parents=True)
    archive_file(workspace, "r").write_text(archived(**changes))
    with pytest.raises(CheckpointError, match=f"archive.json: damaged .*{what}"):
        restore_run(workspace, "r")
    with workspace.reading() as session:
        assert not runs.run_exists(session, "r")
