"""What is printed is printed as it is: an id may look like markup."""

import io
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.progress import Progress

from pipelines import console
from pipelines.commands import stage_progress, train
from pipelines.console import print_table
from recsys_meta.store.database import migrate
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.database.engine import connect, session
from recsys_meta.store.entities.adaptations import NewAdaptation, save_adaptations
from recsys_meta.store.entities.events import NewEvent, insert_events
from recsys_meta.store.tracking.runs import MetricPoint, log_metrics, set_run_status, start_run
from recsys_meta.training.trainer import TrainStep
from tests.fixtures.services import wait
from tests.pipelines.conftest import Command

STRANGE = "[/x] [red]a"


@pytest.fixture
def told(tmp_path) -> Command:
    """A home whose database knows an entity, an event and an item of such names."""
    url = f"sqlite:///{tmp_path / 'recsys-meta.db'}"
    migrate.upgrade_database(url)
    engine = connect(url)
    with session(engine) as s:
        insert_events(s, [NewEvent("user", STRANGE, STRANGE, STRANGE, 1.0, utcnow(None))])
        save_adaptations(s, [NewAdaptation("v", "user", STRANGE, 1, 1, 2.0, 1.0, 0.5, 0.1, "adapted", utcnow(None))])
    engine.dispose()
    return Command(tmp_path)


def names(said):
    """How often both words of the name are there; a narrow table folds between them."""
    return min(said.count(word) for word in STRANGE.split())


def test_ids_are_no_markup(told):
    assert names(told("adaptations", "list")) == 1
    assert names(told("entities", "show", "user", STRANGE)) == 3
    told("keys", "create", "--name", STRANGE)
    assert names(told("keys", "list")) == 1
    assert "receipt" in told("entities", "delete", "user", STRANGE, "--yes")
    assert names(told("adaptations", "list")) == 0


@pytest.mark.parametrize("words", [("entities", "show", "user"), ("adaptations", "list", "--entity"), ("runs", "show")])
def test_a_text_that_no_database_holds_is_one_line(told, words):
    for text in ("x" * 5000, "a\0b"):
        said = told(*words, text, code=1)
        assert said.startswith("error:") and len(said.splitlines()) == 1, said


def test_days_beyond_all_time_are_wrong_usage(told):
    assert "36500" in told("db", "prune", "--days", 1_000_000, code=2)


def test_tables_in_a_pipe_have_a_line_for_each_row(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    ids = ["a " * 60 + "end", "b" * 200]
    print_table("T", ("id", "what"), [(id, "word " * 30) for id in ids])
    said = capsys.readouterr().out
    assert all(any(id in line for line in said.splitlines()) for id in ids)
    assert len(said.splitlines()) == 3 + len(ids)


def test_training_off_a_terminal_prints_lines(monkeypatch):
    monkeypatch.setattr(train, "LINE_S", 0.0)
    said = io.StringIO()
    with Progress(console=Console(file=said, width=80), transient=True) as progress:
        watch = train.StepProgress(progress, "flagship")
        step = TrainStep(501, 600, 3, 3.0, 1.0, 100, 1234, 1.0, {}, best=-0.25)
        for n in (501, 600):
            watch(replace(step, step=n))
    first, last = said.getvalue().strip().splitlines()
    assert first.startswith("flagship  step 501 of 600  loss 3.000  valid 0.2500  1,234/s")
    assert last.startswith("flagship  step 600 of 600") and last.endswith("0 s left")


def test_the_time_left_is_that_of_steps_alone(monkeypatch):
    """Half an hour of start-up, then a second a step."""
    now = iter([1800.0, 1810.0])
    monkeypatch.setattr(train, "time", SimpleNamespace(monotonic=lambda: next(now)))
    said = io.StringIO()
    with Progress(console=Console(file=said, width=80), transient=True) as progress:
        watch = train.StepProgress(progress, "flagship")
        step = TrainStep(1, 100, 1, 3.0, 1.0, 100, 100, 1.0, {})
        for n in (1, 11):
            watch(replace(step, step=n))
    first, second = said.getvalue().strip().splitlines()
    assert "step 1 of 100" in first and "left" not in first, "one step says nothing of the others"
    assert second.endswith("89 s left")


def test_a_stage_off_a_terminal_is_never_silent(monkeypatch):
    monkeypatch.setattr(stage_progress, "LINE_S", 0.01)
    said = io.StringIO()
    with Progress(console=Console(file=said, width=80), transient=True) as progress:
        with stage_progress.StageProgress(progress) as stages:
            stages.note("tuning [ease]")
            wait(lambda: said.getvalue().count("tuning [ease]: 0 s") >= 2)
            stages.follow("after step 7")
            wait(lambda: "after step 7: 0 s" in said.getvalue())
        ended = said.getvalue()
    assert ended.splitlines()[0] == "tuning [ease]"
    assert said.getvalue().strip() == ended.strip(), "nothing is said once the command is done"


@pytest.fixture
def tracked(tmp_path) -> Command:
    """A home whose database knows two runs of a recipe and one of another."""
    url = f"sqlite:///{tmp_path / 'recsys-meta.db'}"
    migrate.upgrade_database(url)
    engine = connect(url)
    with session(engine) as s:
        for name, recipe, rate in (("one", "maml", 0.1), ("two", "maml", 0.2), ("three", "melu", 0.3)):
            config = {"train": {"rate": rate, "tasks": 8}}
            start_run(s, recipe=recipe, dataset="d", learner="maml", config=config, seed=0, run=name)
            log_metrics(s, [MetricPoint(name, "valid", 5, rate / 2)])
    engine.dispose()
    return Command(tmp_path)


def test_runs_show_the_settings_in_which_they_differ(tracked):
    listed = {row["id"]: row["settings"] for row in tracked.json("runs", "list")}
    assert listed == {"one": {"train.rate": "0.1"}, "two": {"train.rate": "0.2"}, "three": {}}
    assert "train.rate=0.2" in tracked("runs", "list")


def test_runs_are_compared(tracked):
    compared = tracked.json("runs", "compare", "one", "two")
    assert compared["settings"] == {"train.rate": ["0.1", "0.2"]}
    assert (compared["runs"], compared["metrics"]) == (["one", "two"], {"valid": [0.05, 0.1]})
    assert "train.rate" in tracked("runs", "compare", "one", "three")
    assert "two runs or more" in tracked("runs", "compare", "one", "one", code=2)
    assert "no run 'four'" in tracked("runs", "compare", "one", "four", code=1)


def test_on_eighty_columns_no_name_is_lost_or_broken(tracked, monkeypatch):
    """Settings stand beneath the list of runs; beside one another a long value is folded and not what it is of."""
    engine = connect(f"sqlite:///{tracked.home / 'recsys-meta.db'}")
    ids = [f"20260101-00000{n}-abcdef" for n in (1, 2)]
    with session(engine) as s:
        for id, members in zip(ids, (["popularity"] * 12, []), strict=True):
            config = {"ensemble": {"members": members}, "train": {"a_setting_with_a_name": len(members)}}
            start_run(s, recipe="flagship", dataset="movielens-100k", learner="maml", config=config, seed=0, run=id)
            set_run_status(s, id, "failed", reason="a loss is not finite")
    engine.dispose()
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(console.out, "_width", 80)  # rich reads it when the console is made
    listed = tracked("runs", "list")
    assert max(map(len, listed.splitlines())) <= 80
    (row,) = (line for line in listed.splitlines() if line.startswith(ids[0]) and "│" in line)
    assert [cell.strip() for cell in row.split("│")] == [ids[0], "flagship", "movielens-100k", "failed", "-"]
    assert f"{ids[1]}  " in listed and "a_setting_with_a_name=12" in listed and "is not finite" in listed
    compared = tracked("runs", "compare", *ids)
    for word in (*ids, "ensemble.members", "train.a_setting_with_a_name"):
        assert word in compared


def test_a_title_is_one_line_however_narrow_its_table(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    version = "flagship-simulated-users@" + "6cbca08aca1e5a42" * 4
    print_table(version, ("a", "b"), [(1, 2)])
    assert version in capsys.readouterr().out.splitlines()
