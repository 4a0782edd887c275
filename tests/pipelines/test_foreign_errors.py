"""Whatever a setting, a URL, a schema or a file holds, what goes wrong is one line and exit code 1 or 2."""

from __future__ import annotations

import logging

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipelines.cli import app
from recsys_meta.core.errors import ConfigError, DataError, RecsysMetaError, describe_unexpected
from recsys_meta.data import prepare_custom
from recsys_meta.store.settings import Settings
from tests.pipelines.conftest import Command

FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
SECRET = "s3cret"


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    # a relative path, as "sqlite:///5" has one, is a file in the working folder: not in the one that is committed
    monkeypatch.chdir(tmp_path)
    yield
    logging.getLogger().handlers.clear()


def complaint(folder, variable: str, value: str, *words: str) -> str:
    """What a command says on standard error under one setting; empty where it succeeds."""
    command = Command(folder, {variable: value})
    try:
        return command(*words, code=1)
    except AssertionError as error:
        if "Traceback" in str(error).partition("\n")[2]:
            raise
        return ""


URLS = st.one_of(
    WORDS,
    st.builds(
        lambda scheme, rest: scheme + rest,
        st.sampled_from(
            ["postgresql://", "sqlite:///", "sqlite://", "redis://", "mysql://", "postgresql+psycopg://", "://"]
        ),
        st.text("ab:/@?=&%[]#.-0159 é", max_size=20),
    ),
)


@FUZZ
@given(url=URLS)
@example(url=f"postgresql://me:{SECRET}@x@127.0.0.1:1/db")
@example(url=f"postgresql://me:{SECRET}@127.0.0.1:port/db")
@example(url=f"redis+cluster://me:{SECRET}@[::1/0")
@example(url="sqlite:////nowhere/at/all.db")
@example(url="mysql://u:p@h/db")
def test_any_database_url_is_one_line_without_its_password(tmp_path_factory, url):
    said = complaint(tmp_path_factory.mktemp("h"), "RECSYS_META_DATABASE_URL", url, "runs", "list")
    assert "Traceback" not in said and SECRET not in said
    assert said.strip().count("\n") == 0, said


@FUZZ
@given(variable=st.sampled_from(sorted(Settings.model_fields)), value=st.one_of(WORDS, URLS, st.floats().map(str)))
@example(variable="rate_limit", value="many")
@example(variable="keys_trusted_s", value="nan")
@example(variable="api_keys", value=f"{SECRET}:all")
@example(variable="home", value="/dev/null")
@example(variable="redis_url", value="redis://127.0.0.1:port")
def test_any_setting_is_one_line(tmp_path_factory, variable, value):
    folder = tmp_path_factory.mktemp("h")
    if variable == "home":
        value = str(folder / value.replace("/", "_")) if not value.startswith("/dev") else value
    if "\x00" in value:
        return
    said = complaint(folder, f"RECSYS_META_{variable.upper()}", value, "data", "list")
    assert said.strip().count("\n") == 0, said


SCALARS = st.one_of(st.booleans(), st.integers(-5, 10**6), st.floats(allow_nan=False), st.text("ab%d;,:é", max_size=6))
KEYS = sorted(
    {"name", "kind", "objective", "entity", "item", "label", "label_range", "label_values", "positive", "time"}
    | {"time_format", "time_zone", "exact_time", "shots", "home", "actor", "arrival", "strange", "context"}
)
FILE_KEYS = sorted(
    {"events", "items", "separator", "encoding", "quotes", "escape", "decimal", "comment", "skip_lines", "format"}
    | {"title", "duplicates", "strange", "city_radius_km"}
)
TABLE_KEYS = sorted(
    {"path", "columns", "key", "where", "layout", "missing", "row_number", "list_separator", "pair_separator"}
)
VALUES = st.one_of(
    SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(st.sampled_from(["min", "any", "a"]), SCALARS, max_size=2)
)


def toml(value) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case dict():
            return "{ " + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + " }"
        case float():
            return repr(value)
        case _:
            return str(value)


@settings(FUZZ, max_examples=150)
@given(
    top=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3),
    files=st.dictionaries(st.sampled_from(FILE_KEYS), VALUES, max_size=2),
    table=st.dictionaries(st.sampled_from(TABLE_KEYS), VALUES, max_size=3),
    text=st.sampled_from(["user,item,rating\nu,i,1\n", "u i 1:2\n", '{"user": "u", "item": [1]}\n', "", "\x00\xff"]),
)
@example(top={}, files={"encoding": "undefined"}, table={}, text="user,item\nu,i\n")
@example(top={}, files={"encoding": "base64"}, table={}, text="user,item\nu,i\n")
@example(top={"time": "rating", "time_format": "%Q"}, files={}, table={}, text="user,item,rating\nu,i,1\n")
@example(top={"time": "rating", "time_format": "%d%"}, files={}, table={}, text="user,item,rating\nu,i,1\n")
@example(top={}, files={"separator": "\t\n"}, table={}, text="user,item\nu,i\n")
@example(top={}, files={"escape": "\n"}, table={}, text='user,item\n"u",i\n')
@example(top={}, files={}, table={"path": "/*"}, text="user,item\nu,i\n")
@example(top={}, files={}, table={"path": "**"}, text="user,item\nu,i\n")
@example(top={}, files={}, table={"columns": ["user", "user"]}, text="user,item\nu,i\n")
@example(top={}, files={}, table={"layout": "wide", "row_number": "user"}, text="a,b\n1,2\n")
@example(top={}, files={}, table={"where": {"user": 1}, "layout": "list"}, text="user,item\n1,2\n")
def test_any_schema_is_prepared_or_refused(tmp_path_factory, top, files, table, text):
    folder = tmp_path_factory.mktemp("s")
    (folder / "events.csv").write_bytes(text.encode("latin-1"))
    top, table = {"name": "x", **top}, {"path": "events.csv", **table}
    lines = [f"{k} = {toml(v)}" for k, v in top.items()]
    lines += ["[files]", *(f"{k} = {toml(v)}" for k, v in files.items() if k != "events"), f"events = {toml(table)}"]
    (folder / "schema.toml").write_text("\n".join(lines), encoding="utf-8")
    try:
        prepare_custom(folder / "schema.toml", folder / "out", "skip")
    except RecsysMetaError as error:
        assert isinstance(error, ConfigError | DataError) and str(error)


def test_an_error_that_nobody_expected_is_one_line(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyError(f"postgresql://me:{SECRET}@@host/db\nand more")

    monkeypatch.setattr("pipelines.commands.data.locate", fail)
    said = Command(tmp_path)("data", "list", code=1)
    assert said.strip().startswith("error: KeyError: ") and SECRET not in said and "--verbose" in said
    assert describe_unexpected(ValueError()) == "ValueError"
    assert app is not None
