"""`recsys-meta tune`: what it finds and writes, and that nothing that was finished is lost to a kill or to Ctrl-C."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from pipelines.commands import tune
from recsys_meta.training.recipe import read_recipe

POOR = """
name = "poor"
learner = "flagship"
[config]
dims = 2
towers = 1
memories = []
[train]
rate = 1e-5
most_steps = 8
validate_steps = 2
tasks = 8
validate_entities = 20
"""
LONG = ("--set", "train.most_steps=200", "--set", "train.validate_steps=20", "--set", "train.patience=99")
"""Trials of a second or two, so that a signal meets one."""
SPACE = """
[config]
dims = { low = 2, high = 12, log = true }
[train]
rate = { low = 1e-5, high = 0.1, log = true }
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    (folder / "poor.toml").write_text(POOR)
    (folder / "space.toml").write_text(SPACE)
    return folder


def words(files, *more):
    recipe, space = files / "poor.toml", files / "space.toml"
    return ("tune", "--recipe", recipe, "--dataset", "simulated-users", "--space", space, "--threads", "1", *more)


@pytest.fixture(scope="module")
def found(command, files):
    """A study of six trials."""
    out = files / "found.toml"
    return command.json(*words(files, "--trials", "6", "--study", "first", "--out", out, "--html", files))


def test_it_finds_a_better_recipe_than_the_one_it_starts_from(command, found, files):
    trials = found["trials"]
    assert [t["number"] for t in trials] == [1, 2, 3, 4, 5, 6]
    assert {t["status"] for t in trials} <= {"finished", "pruned"}
    assert trials[0]["origin"] == "recipe" and trials[0]["params"] == {"config.dims": 2, "train.rate": 1e-5}
    assert {t["origin"] for t in trials[1:]} == {"sampler"}
    best = found["best"]
    assert found["metric"] == "ndcg@10" and best["value"] > trials[0]["value"]
    assert best["value"] == max(t["value"] for t in trials if t["status"] == "finished")
    recipe = read_recipe(files / "found.toml")
    assert recipe.name == "poor-tuned"
    assert (recipe.config["dims"], recipe.train.rate) == (best["params"]["config.dims"], best["params"]["train.rate"])
    assert recipe.train.most_steps == 8 and recipe.config["memories"] == []
    assert "study first" in (files / "found.toml").read_text()


def test_train_takes_what_it_wrote_and_reaches_the_value_of_the_trial(command, found, files):
    run = command.json("train", "--recipe", files / "found.toml", "--dataset", "simulated-users", "--threads", "1")
    assert run["valid"] == pytest.approx(found["best"]["value"], abs=1e-6)


def test_the_report_is_one_page(found, files):
    page = (files / "report.html").read_text()
    assert "Tuning of poor on simulated-users" in page and page.count("data:image/png") == 2
    assert f"{found['best']['value']:.4f}" in page and "config.dims" in page and "poor-tuned" in page
    assert "http://" not in page and "https://" not in page and 'src="data:' in page


def test_the_table_names_what_was_found_and_what_to_type_next(command, found):
    said = command("tune", "--study", "first")
    assert "config.dims" in said and f"trial {found['best']['trial']}" in said
    assert command.json("tune", "--study", "first")["trials"] == found["trials"], "it has its trials: nothing is run"


def test_a_study_goes_on_to_more_trials_with_its_own_settings(command, found, files):
    more = command.json("tune", "--study", "first", "--trials", "7")
    assert more["trials"][:6] == found["trials"] and len(more["trials"]) == 7
    assert "goes on with its own" in command(*words(files, "--study", "first"), code=2)


def test_a_later_study_on_like_data_begins_with_what_an_earlier_one_found(command, found, files):
    later = command.json(*words(files, "--trials", "2", "--seed", "1"))
    assert [t["origin"] for t in later["trials"]] == ["recipe", "like first"]
    assert later["study"].startswith("poor-simulated-users-")
    assert later["recipe"].endswith(f"{later['study']}/recipe.toml")
    assert tomllib.loads(Path(later["recipe"]).read_text())["name"] == "poor-tuned"


def child(command, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines", *map(str, arguments)],
        env=command.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows(command, study):
    with sqlite3.connect(command.home / "recsys-meta.db") as database:
        try:
            return database.execute(
                "SELECT number, status, params, value, worker FROM tuning_trials WHERE study = ? ORDER BY number",
                (study,),
            ).fetchall()
        except sqlite3.OperationalError:
            return []


def wait_for(command, study, process, is_enough):
    deadline = time.monotonic() + 240
    while not is_enough(rows(command, study)):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.02)


def finished(trials):
    return [t for t in trials if t[1] in ("finished", "pruned")]


@pytest.mark.slow
def test_killed_and_resumed_it_loses_no_finished_trial_and_proposes_what_it_would_have(command, found, files):
    """A lost trial does not count; its settings are tried again, and the rest are those of an undisturbed study."""
    process = child(command, *words(files, "--trials", "6", "--study", "killed", *LONG))
    wait_for(command, "killed", process, lambda seen: len(finished(seen)) >= 2 and seen[-1][1] == "running")
    process.kill()
    process.communicate()
    before = rows(command, "killed")
    assert before[-1][1] == "running"
    done = command.json("tune", "--study", "killed", "--threads", "1")
    after = rows(command, "killed")
    assert [r[:4] for r in after[: len(before) - 1]] == [r[:4] for r in before[:-1]]
    lost, again = after[len(before) - 1 : len(before) + 1]
    assert lost[1] == "lost" and again[2] == lost[2]
    assert done["trials"][len(before)]["origin"] == f"again, trial {len(before)}"
    assert len(finished(after)) == 6


@pytest.mark.slow
def test_ctrl_c_ends_cleanly_and_says_how_to_go_on(command, found, files):
    process = child(command, *words(files, "--trials", "50", "--study", "stopped", *LONG))
    wait_for(command, "stopped", process, lambda seen: len(finished(seen)) >= 1 and seen[-1][1] == "running")
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=240)
    assert process.returncode == 1 and "recsys-meta tune --study stopped" in message and "Traceback" not in message
    assert rows(command, "stopped")[-1][1] in ("stopped", "finished", "pruned")
    assert "50 trials: " in message, "off a terminal it says in lines how far it is"


@pytest.mark.slow
def test_workers_are_processes_that_share_a_study_and_one_that_is_killed_is_replaced(command, found, files):
    process = child(command, *words(files, "--trials", "6", "--workers", "2", "--study", "shared", *LONG))
    wait_for(command, "shared", process, lambda seen: any(t[1] == "running" for t in seen))
    victim = next(int(t[4].split(":")[-2]) for t in rows(command, "shared") if t[1] == "running")
    os.kill(victim, signal.SIGKILL)
    _, message = process.communicate(timeout=500)
    assert process.returncode == 0, message
    seen = rows(command, "shared")
    assert len(finished(seen)) == 6 and len({t[4] for t in seen}) >= 2
    assert [t[1] for t in seen].count("lost") <= 1 and not any(t[1] == "running" for t in seen)


def test_trials_that_diverge_are_marked_and_the_search_goes_on(command, found, files):
    space = files / "wild.toml"
    space.write_text("[train]\nclip = { low = 1e-3, high = 1.0 }\nrate = { values = [1e-3, 1e30] }\n")
    done = command.json(
        *("tune", "--recipe", files / "poor.toml", "--dataset", "simulated-users", "--space", space, "--trials", "4"),
        *("--threads", "1", "--seed", "2"),
    )
    status = {t["params"]["train.rate"]: t for t in done["trials"]}
    assert status[1e30]["status"] == "failed" and "not finite" in status[1e30]["reason"]
    assert done["best"]["params"]["train.rate"] == 1e-3


def test_what_is_wrong_is_said_before_a_study_is_begun(command, found, files, monkeypatch):
    wrong = files / "wrong.toml"
    wrong.write_text("[config]\ndimensions = { low = 1, high = 4 }\n")
    said = command("tune", "--recipe", files / "poor.toml", "--dataset", "simulated-users", "--space", wrong, code=1)
    assert "do you mean 'config.dims'" in said and "wrong.toml" in said
    assert "--dataset is missing" in command("tune", "--study", "unknown", code=1)
    assert command("tune", "--study", "a/b", code=2) and command("tune", "--out", "x.json", code=2)
    monkeypatch.setattr(tune, "find_spec", lambda name: None)
    assert "recsys-meta[tune]" in command("tune", "--study", "first", code=1)
