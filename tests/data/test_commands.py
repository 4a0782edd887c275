"""`recsys-meta data ...` as a user types it."""

import json

import pytest
from typer.testing import CliRunner

from pipelines.commands.data import app
from recsys_meta.core.errors import ConfigError, DataError
from recsys_meta.data import open_dataset
from tests.data.source_files import GOOD, write
from tests.data.sources.test_movielens import layout_1m


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Runs a command with its home and data in a folder of the test."""
    monkeypatch.setenv("RECSYS_META_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RECSYS_META_DATA", str(tmp_path / "raw"))
    layout_1m(tmp_path / "raw" / "ml-1m")
    return lambda *words: CliRunner().invoke(app, [str(w) for w in words])


def parsed(result):
    assert result.exit_code in (0, 1), result.output
    return json.loads(result.stdout)


def test_list(data, tmp_path):
    rows = {r["name"]: r for r in parsed(data("list", "--json"))}
    assert set(rows) == {
        *("movielens-100k", "movielens-1m", "movielens-latest-small"),
        *("movielens-1m-ads", "movielens-1m-ads-forward", "trivago-100k", "frappe", "foursquare-us"),
        *("simulated-users", "simulated-ads", "simulated-cities"),
        "citeulike-a",
    }
    assert rows["movielens-1m"]["raw"] == str(tmp_path / "raw" / "ml-1m")
    assert rows["movielens-100k"]["raw"] is None
    assert rows["simulated-ads"]["raw"] == "simulated"
    assert "GroupLens" in rows["movielens-1m"]["terms"]
    assert "movielens-1m" in data("list").stdout


def test_prepare_list_and_describe(data, tmp_path):
    made = parsed(data("prepare", "movielens-1m", "--json"))
    folder = tmp_path / "home" / "data" / "movielens-1m"
    assert made["path"] == str(folder)
    assert (made["entities"], made["items"], made["events"]) == (2, 2, 3)
    assert open_dataset(folder, verify=True).digest == made["digest"]
    assert {r["name"]: r for r in parsed(data("list", "--json"))}["movielens-1m"]["prepared"] == str(folder)
    told = parsed(data("describe", folder, "--json"))
    assert told["labels"] == {"1": 1, "3": 1, "5": 1}
    assert told["rows_of_an_entity"]["most"] == 2
    assert told["time"]["first"] == "2000-12-31T22:00:00+00:00"
    assert [f["name"] for f in told["item_features"]] == ["genres", "year", "decade"]
    assert parsed(data("describe", "movielens-1m", "--json"))["digest"] == made["digest"], "a name does too"
    shown = data("describe", folder)
    assert shown.exit_code == 0
    assert "Drama" not in shown.stdout
    assert "genres" in shown.stdout


def test_prepare_says_what_it_did(data, tmp_path):
    shown = data("prepare", "movielens-1m", "--out", tmp_path / "here", "--objective", "rating", "--positive", "4")
    assert "3 events of 2 entities and 2 items" in shown.stdout
    assert "6,040 were published" in shown.stderr
    schema = open_dataset(tmp_path / "here").schema
    assert (schema.objective, schema.positive) == ("rating", 4)


def test_prepare_simulated(data, tmp_path):
    one = parsed(data("prepare", "simulated-cities", "--json"))
    two = parsed(data("prepare", "simulated-cities", "--seed", "1", "--json"))
    assert one["digest"] != two["digest"]
    assert one["events"] == 40_000


def test_prepare_and_validate_ones_own(data, tmp_path):
    path = write(tmp_path / "own", GOOD + "u3,i3,[bold]x,400\n")
    failed = data("prepare", path)
    assert isinstance(failed.exception, DataError), "the command line turns it into one line and exit code 1"
    assert not (tmp_path / "home" / "data" / "small").exists()
    shown = data("prepare", path, "--on-error", "skip")
    assert "1 of the events" in shown.stderr
    assert "rejects.csv" in shown.stderr
    assert (tmp_path / "home" / "data" / "small" / "rejects.csv").is_file()
    checked = data("validate", path)
    assert checked.exit_code == 1
    assert "[bold]x" in checked.stdout
    report = parsed(data("validate", path, "--json"))
    assert (report["ok"], report["rejected"], report["examples"][0]["line"]) == (False, {"events": 1}, 5)
    good = data("validate", write(tmp_path / "good", GOOD))
    assert good.exit_code == 0
    assert data("validate", tmp_path / "home" / "data" / "small").exit_code == 0, "a prepared folder is whole"


def test_validate_a_damaged_directory(data, tmp_path):
    data("prepare", "movielens-1m")
    path = tmp_path / "home" / "data" / "movielens-1m" / "events.item.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert isinstance(data("validate", path.parent).exception, DataError)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("prepare", "movielens"), ConfigError),
        (("prepare", "nothing.toml"), ConfigError),
        (("prepare", "nothing.inter"), DataError),
        (("prepare", "movielens-1m", "--source", "/nowhere"), DataError),
        (("prepare", "movielens-100k", "--no-download"), DataError),
        (("prepare", "simulated-users", "--objective", "click"), DataError),
        (("prepare", "simulated-cities", "--objective", "rating"), ConfigError),
        (("describe", "nowhere"), DataError),
        (("validate", "nowhere.toml"), ConfigError),
        (("validate", "nowhere.csv"), DataError),
    ],
)
def test_expected_errors(data, words, kind):
    assert isinstance(data(*words).exception, kind)


@pytest.mark.parametrize(
    "words",
    [
        ("prepare",),
        ("prepare", "movielens-1m", "--on-error", "maybe"),
        ("prepare", "movielens-1m", "--objective", "x"),
        ("prepare", "movielens-1m", "--seed", "-1"),
        ("describe",),
        ("nothing",),
    ],
)
def test_wrong_usage_is_2(data, words):
    assert data(*words).exit_code == 2


def test_help_everywhere(data):
    for command in ("list", "prepare", "describe", "validate"):
        shown = data(command, "--help")
        assert shown.exit_code == 0
        assert "--json" in shown.stdout


def test_ones_own_sets_are_listed_and_no_folder_hides_them(data, tmp_path, monkeypatch):
    path = write(tmp_path / "own", GOOD)
    assert data("prepare", path).exit_code == 0
    folder = tmp_path / "home" / "data" / "small"
    row = {r["name"]: r for r in parsed(data("list", "--json"))}["small"]
    assert (row["prepared"], row["raw"]) == (str(folder), None) and row["title"].startswith("3 events of 2 entities")
    assert "small" in data("list").stdout
    (folder / "events.item.npy").unlink()
    assert "cannot be opened" in data("list").stdout
    data("prepare", path)
    work = tmp_path / "work"
    (work / "small").mkdir(parents=True)
    monkeypatch.chdir(work)
    assert parsed(data("describe", "small", "--json"))["events"] == 3
    assert data("validate", "small").exit_code == 0
    from pipelines.workspace import Workspace

    assert Workspace().dataset("small")[1] == folder
    (work / "small" / "dataset.json").write_text("{}")
    assert Workspace().dataset("small")[1] == folder, "a name is a name; ./small is the folder"
    with pytest.raises(DataError):
        Workspace().dataset("./small/../small")


def test_what_is_hardly_meant_is_said_whenever_a_schema_is_read(data, tmp_path, caplog):
    path = write(tmp_path / "own", GOOD)
    assert "before 1990" in data("prepare", path).stderr
    assert "before 1990" in data("validate", path).stderr
    from pipelines.workspace import Workspace

    Workspace().dataset(str(path))
    assert "before 1990" in caplog.text
