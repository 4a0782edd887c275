"""`doctor` on installations that are broken, each in its own way: it names the true cause, and nothing else fails."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from sqlalchemy import text
from sqlalchemy.engine import make_url

from recsys_meta.models.bundle import Bundle
from recsys_meta.store.database import migrate
from recsys_meta.store.database.engine import connect, session
from tests.api import bundles
from tests.fixtures.services import (  # noqa: F401  (fixtures are found by name)
    free_port,
    own_redis,
    postgres_server,
    postgres_url,
)
from tests.pipelines.conftest import Command


def checks(command: Command, code: int = 1) -> dict[str, str]:
    """What failed, with the reason."""

    found = json.loads(command("doctor", "--json", code=code, printed=True))
    return {check["what"]: check["detail"] for check in found if check["state"] == "failed"}


def only(command: Command, what: str) -> str:
    failed = checks(command)
    assert what in failed and set(failed) <= {what, "models", "alerts"}, failed
    return failed[what]


def test_a_sound_installation(tmp_path):
    assert checks(Command(tmp_path), code=0) == {}


def test_a_home_that_is_a_file(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    failed = checks(Command(file))
    assert "File exists" in failed["home"] or "Not a directory" in failed["home"]


def test_data_that_is_not_there(tmp_path):
    assert "is no folder" in only(Command(tmp_path, {"RECSYS_META_DATA": str(tmp_path / "nowhere")}), "data")


def with_database(tmp_path, url):
    return Command(tmp_path, {"RECSYS_META_DATABASE_URL": url})


def changed(url, **parts):
    return make_url(url).set(**parts).render_as_string(hide_password=False)


def test_a_database_that_is_away_or_misnamed(tmp_path, postgres_server):  # noqa: F811
    for parts, cause in (
        ({"port": free_port()}, "cannot be reached"),
        ({"database": "nowhere"}, "no database of that name"),
        ({"username": "nobody"}, "login"),
        ({"host": "nowhere.invalid"}, "host is not known"),
    ):
        assert cause in only(with_database(tmp_path, changed(postgres_server, **parts)), "database")


def test_a_password_with_an_at_sign(tmp_path):
    told = only(with_database(tmp_path, "postgresql://app:s3cr@t@localhost/app"), "database")
    assert "%40" in told and "s3cr" not in told and "t@" not in told


def test_a_database_without_tables(tmp_path, postgres_url):  # noqa: F811
    assert "db upgrade" in only(with_database(tmp_path, postgres_url), "database")


def test_a_database_that_another_program_migrates(tmp_path, postgres_url):  # noqa: F811
    engine = connect(postgres_url)
    with session(engine) as s:
        s.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)"))
        s.execute(text("INSERT INTO alembic_version VALUES ('0009')"))
    engine.dispose()
    assert "no tables of recsys-meta" in only(with_database(tmp_path, postgres_url), "database")


def test_a_database_of_a_newer_release_and_one_that_lost_a_table(tmp_path, postgres_url):  # noqa: F811
    migrate.upgrade_database(postgres_url)
    engine = connect(postgres_url)
    with session(engine) as s:
        s.execute(text("DROP TABLE explorations"))
    assert "lacks table 'explorations'" in only(with_database(tmp_path, postgres_url), "database")
    with session(engine) as s:
        s.execute(text(f"UPDATE {migrate.VERSION_TABLE} SET version_num = '9999'"))
    assert "newer" in only(with_database(tmp_path, postgres_url), "database")
    engine.dispose()


def test_a_database_that_only_reads(tmp_path, postgres_url):  # noqa: F811
    migrate.upgrade_database(postgres_url)
    url = make_url(postgres_url)
    options = f"{url.query['options']} -c default_transaction_read_only=on"
    read_only = changed(postgres_url, query={"options": options})
    assert "takes no writes" in only(with_database(tmp_path, read_only), "database")


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "recsys-meta.db").write_bytes(b"no database at all" * 100)
    assert "none of SQLite" in only(Command(tmp_path), "database")


REDIS = {
    "password": (["--requirepass", "s3cret"], "Redis refuses: NOAUTH"),
    "full": (["--maxmemory", "1", "--maxmemory-policy", "noeviction"], "Redis refuses: OOM"),
    "replica": (["--replicaof", "127.0.0.1", "1"], "READONLY"),
}


@pytest.mark.parametrize(("options", "words"), REDIS.values(), ids=REDIS)
def test_redis_says_itself_what_is_wrong(tmp_path, own_redis, options, words):  # noqa: F811
    own_redis.stop()
    own_redis.options = options
    started = own_redis
    if "--requirepass" in options:  # the fixture's own ping would be refused
        started.options = []
        started.start()
        started.ask("CONFIG SET", "requirepass", "s3cret")
    else:
        started.start()
    command = Command(tmp_path, {"RECSYS_META_REDIS_URL": own_redis.url})
    assert words in only(command, "cache")
    if "--requirepass" in options:
        wrong = own_redis.url.replace("redis://", "redis://:wr0ng@")
        told = only(Command(tmp_path, {"RECSYS_META_REDIS_URL": wrong}), "cache")
        assert "WRONGPASS" in told or "invalid" in told
        assert "wr0ng" not in told


def test_a_redis_that_is_away_or_none(tmp_path, postgres_server):  # noqa: F811
    for url, words in (
        (f"redis://127.0.0.1:{free_port()}", "cannot be reached: connection refused"),
        ("redis://nowhere.invalid:6379", "host is not known"),
        (f"redis://127.0.0.1:{make_url(postgres_server).port or 5432}", "Redis"),
        ("redis://:12/3@localhost:6379", "%2F"),
    ):
        assert words in only(Command(tmp_path, {"RECSYS_META_REDIS_URL": url}), "cache")


@pytest.fixture(scope="module")
def popular() -> Bundle:
    return bundles.popular()


@pytest.mark.parametrize("how", ["gone", "damaged", "NaN"])
def test_a_live_model_that_cannot_be_served(tmp_path, popular, how):
    url = f"sqlite:///{tmp_path / 'recsys-meta.db'}"
    migrate.upgrade_database(url)
    bundle = popular
    if how == "NaN":
        bundle = replace(bundle, popularity=torch.full_like(bundle.popularity, torch.nan))
    version = bundles.publish(url, tmp_path / "models", "shop", bundle)
    folder = tmp_path / "models" / "shop" / version
    if how == "gone":
        shutil.rmtree(folder)
    elif how == "damaged":
        (folder / "bundle.json").write_text("{}")
    told = only(Command(tmp_path), "models")
    assert told.startswith("shop: ")
    assert ("finite" if how == "NaN" else "not a whole bundle") in told


def test_a_wrong_setting_is_one_line(tmp_path):
    for name, value in (
        ("RECSYS_META_DATABASE_POOL_SIZE", "many"),
        ("RECSYS_META_SECRET", "short"),
        ("RECSYS_META_REDIS_TIMEOUT_S", "-1"),
    ):
        told = Command(tmp_path, {name: value})("doctor", code=1)
        assert name in told and "Traceback" not in told
        assert len(told.strip().splitlines()) == 1
