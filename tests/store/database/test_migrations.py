import hashlib
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text
from sqlalchemy.orm import Session

from recsys_meta.core.errors import StoreError
from recsys_meta.store.database import migrate
from recsys_meta.store.database.engine import StoreUnavailable, connect, reading, session
from recsys_meta.store.entities import adaptations, entities
from recsys_meta.store.model_registry import registry
from recsys_meta.store.model_registry.tables import AliasChangeRecord
from recsys_meta.store.schema_check import check_schema
from recsys_meta.store.tables import METADATA
from recsys_meta.store.tracking import evaluations, runs
from tests.store.database import view_rows
from tests.store.samples import NOON, an_adaptation, an_evaluation

HEAD = "0020"  # the newest revision
VIEWS = {
    *("cold_start_curve", "adaptation_daily", "hardest_tasks", "online_quality", "outcome_sums", "split_periods"),
    "split_results",
}


def test_schema_is_the_one_of_the_tables(engine: Engine) -> None:
    with engine.connect() as connection:
        options = {"compare_type": True, "compare_server_default": True, "version_table": migrate.VERSION_TABLE}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, METADATA) == []


def test_checks_and_foreign_keys_are_the_ones_of_the_tables(engine: Engine) -> None:
    """What compare_metadata does not look at."""
    seen = inspect(engine)
    for table in METADATA.sorted_tables:
        named = {str(c.name) for c in table.constraints if type(c).__name__ == "CheckConstraint"}
        assert {c["name"] for c in seen.get_check_constraints(table.name)} == named
        wanted = {(tuple(k.column_keys), k.referred_table.name, k.ondelete) for k in table.foreign_key_constraints}
        found = {
            (tuple(k["constrained_columns"]), k["referred_table"], k["options"].get("ondelete"))
            for k in seen.get_foreign_keys(table.name)
        }
        assert found == wanted
        assert seen.get_pk_constraint(table.name)["name"] == f"pk_{table.name}"


def test_indexes(engine: Engine) -> None:
    """Each list that is paged or filtered has an index in its order."""
    seen = inspect(engine)
    found = {
        (table, tuple(index["column_names"]))
        for table in seen.get_table_names()
        for index in seen.get_indexes(table)
        if not index.get("duplicates_constraint")
    }
    assert found == {
        ("runs", ("started", "id")),
        ("runs", ("status", "started")),
        ("latest_metrics", ("key", "value")),
        ("evaluations", ("dataset", "scenario", "metric", "method", "shots")),
        ("evaluations", ("model", "created")),
        ("evaluations", ("run",)),
        ("evaluations", ("dataset", "created")),
        ("paired_tests", ("dataset", "created")),
        ("paired_tests", ("created",)),
        ("newcomer_results", ("dataset", "created")),
        ("newcomer_results", ("created",)),
        ("newcomer_results", ("kind", "entity")),
        ("model_versions", ("version",)),
        ("model_versions", ("run",)),
        ("alias_history", ("model", "version")),
        ("events", ("kind", "entity", "time", "event_id")),
        ("events", ("kind", "received")),
        ("events", ("kind", "item", "received")),
        ("items", ("kind", "revision")),
        ("items", ("kind", "updated", "external_id")),
        ("adaptations", ("created", "id")),
        ("adaptations", ("kind", "entity", "created")),
        ("adaptations", ("model_version", "created")),
        ("impressions", ("created", "id")),
        ("impressions", ("kind", "entity", "created")),
        ("impressions", ("model_version", "created")),
        ("outcomes", ("created",)),
        ("outcomes", ("day",)),
        ("outcomes", ("model", "created")),
        ("outcome_days", ("day",)),
        ("outcome_days", ("model", "day")),
        ("adaptation_days", ("day",)),
        ("split_entities", ("model", "sequence", "place")),
        ("outcomes", ("kind", "entity", "created")),
        ("outcomes", ("model", "model_version", "variant", "created")),
        ("erasures", ("entity_digest", "at")),
        ("api_keys", ("name",)),
        ("audit", ("at", "id")),
        ("audit", ("action", "at")),
        ("audit", ("actor", "at")),
        ("splits", ("model", "version")),
        ("default_models", ("model",)),
        ("explorations", ("created", "id")),
        ("tuning_studies", ("created", "name")),
        ("tuning_studies", ("learner", "objective", "created")),
        ("explorations", ("kind", "entity", "created")),
    }
    unique = [tuple(u["column_names"]) for u in seen.get_unique_constraints("alias_history")]
    assert unique == [("model", "alias", "sequence")]
    assert seen.get_pk_constraint("events")["constrained_columns"] == ["kind", "event_id"]


def test_every_reference_has_an_index(engine: Engine) -> None:
    """Or deleting a run or a version would read whole tables."""
    seen = inspect(engine)
    for table in seen.get_table_names():
        starts = [tuple(index["column_names"]) for index in seen.get_indexes(table)]
        starts += [tuple(seen.get_pk_constraint(table)["constrained_columns"])]
        for key in seen.get_foreign_keys(table):
            columns = tuple(key["constrained_columns"])
            assert any(start[: len(columns)] == columns for start in starts), (table, columns)


def _old_run(s: Session, run: str) -> None:
    """Insert a run as the first release did."""
    columns = "id, recipe, dataset, learner, config, seed, status, started"
    row = {"run": run, "config": '{"name": "melu", "lr": 0.1}', "t": NOON}
    s.execute(text(f"INSERT INTO runs ({columns}) VALUES (:run, 'melu', 'd', 'melu', :config, 1, 'finished', :t)"), row)


def _old_evaluation(s: Session, **given: Any) -> None:
    """Insert a point of a curve as releases before 0018 did."""
    late = {"run", "recipe", "config_digest", "split", "seeds"}
    row = {k: v for k, v in asdict(an_evaluation(**given)).items() if k not in late} | {"created": NOON}
    s.execute(text(f"INSERT INTO evaluations ({', '.join(row)}) VALUES (:{', :'.join(row)})"), row)


def test_down_and_up_again_keeps_the_data(empty_url: str) -> None:
    migrate.upgrade_database(empty_url, "0001")
    assert migrate.current_revision(empty_url) == "0001"
    engine = connect(empty_url)
    with session(engine) as s:
        at = {"t": NOON}
        _old_run(s, "r1")
        runs.log_metrics(s, [runs.MetricPoint("r1", "loss", 1, 0.5)])
        s.execute(text("INSERT INTO models (name, created, updated) VALUES ('m', :t, :t)"), at)
        version = "INSERT INTO model_versions (model, version, path, run, metrics, created)"
        s.execute(text(f"{version} VALUES ('m', 'v1', '/bundles/v1', 'r1', '{{}}', :t)"), at)
        s.add(AliasChangeRecord(model="m", alias="live", sequence=1, version="v1", action="publish", at=NOON))
        late = {"answers", "variant"}
        old = {k: v for k, v in an_adaptation()._asdict().items() if k not in late}  # a row of that time
        names = ", ".join(old)
        s.execute(text(f"INSERT INTO adaptations ({names}) VALUES (:{', :'.join(old)})"), old)
        _old_evaluation(s)
    with pytest.raises(StoreUnavailable, match="db upgrade"), reading(engine) as s:
        view_rows.adaptation_daily(s)
    migrate.upgrade_database(empty_url)
    assert migrate.current_revision(empty_url) == HEAD
    assert set(inspect(engine).get_view_names()) >= VIEWS
    with reading(engine) as s:
        assert len(view_rows.adaptation_daily(s)) == 1
    migrate.downgrade_database(empty_url, "0001")
    assert not VIEWS & set(inspect(engine).get_view_names())
    migrate.upgrade_database(empty_url)
    with reading(engine) as s:
        assert runs.get_run(s, "r1").config == {"name": "melu", "lr": 0.1}
        assert [m.value for m in runs.run_metrics(s, "r1")] == [0.5]
        live = registry.live_version(s, "m")
        assert live is not None
        assert live.version == "v1"
    migrate.downgrade_database(empty_url, "base")
    assert migrate.current_revision(empty_url) is None
    assert set(inspect(engine).get_table_names()) <= {migrate.VERSION_TABLE}
    migrate.upgrade_database(empty_url)
    with reading(engine) as s:
        assert runs.page_runs(s).items == []
    engine.dispose()


def test_the_daily_view_is_that_of_its_revision(empty_url: str) -> None:
    """Arms are told apart from 0007 on; before, and after going back, their rows are counted together."""
    migrate.upgrade_database(empty_url)
    engine = connect(empty_url)
    with session(engine) as s:
        adaptations.save_adaptations(s, [an_adaptation(variant=arm) for arm in (None, "a", "b", "b")])

    def days() -> list[tuple[object, ...]]:
        with reading(engine) as s:
            return [tuple(row) for row in s.execute(text("SELECT adaptations FROM adaptation_daily ORDER BY 1"))]

    assert days() == [(1,), (1,), (2,)]
    migrate.downgrade_database(empty_url, "0006")
    assert "variant" not in {column["name"] for column in inspect(engine).get_columns("adaptations")}
    assert days() == [(4,)]
    migrate.upgrade_database(empty_url)
    assert days() == [(4,)]
    engine.dispose()


def test_upgrading_twice_changes_nothing(database_url: str) -> None:
    migrate.upgrade_database(database_url)
    assert migrate.current_revision(database_url) == HEAD


def test_processes_upgrade_at_the_same_time(empty_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=migrate.upgrade_database, args=(empty_url,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0] * 4
    assert migrate.current_revision(empty_url) == HEAD


def test_threads_upgrade_at_the_same_time(empty_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(migrate.upgrade_database, [empty_url] * 4))
    assert migrate.current_revision(empty_url) == HEAD


def test_failed_upgrade_leaves_nothing(empty_url: str) -> None:
    """A view of the same name stops revision 0002 half-way: neither its indexes nor 0001 may stay."""
    engine = connect(empty_url)
    with session(engine) as s:
        s.execute(text("CREATE VIEW hardest_tasks AS SELECT 1 AS one"))
    with pytest.raises(StoreError):
        migrate.upgrade_database(empty_url)
    assert migrate.current_revision(empty_url) is None
    assert inspect(engine).get_table_names() == []
    engine.dispose()


def test_unknown_revision(empty_url: str) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        migrate.upgrade_database(empty_url, "nowhere")


def test_rows_that_refer_to_nothing_undo_a_migration(sqlite_url: str) -> None:
    migrate.upgrade_database(sqlite_url, "0001")
    engine = connect(sqlite_url)
    raw = engine.raw_connection()
    raw.execute("PRAGMA foreign_keys = OFF")
    raw.execute("INSERT INTO metrics VALUES ('nobody', 'loss', 1, 0.5)")
    raw.close()
    engine.dispose()
    with pytest.raises(StoreError, match="refer to nothing"):
        migrate.upgrade_database(sqlite_url)
    assert migrate.current_revision(sqlite_url) == "0001"


def version_table(engine: Engine, name: str) -> list[str] | None:
    if name not in inspect(engine).get_table_names():
        return None
    with reading(engine) as s:
        return sorted(s.execute(text(f"SELECT version_num FROM {name}")).scalars())


@pytest.mark.parametrize("foreign", ["0003", "0009", "ae1027a6acf", None])
def test_another_programs_revision_is_none_of_ours(empty_url: str, foreign: str | None) -> None:
    """Many programs number their revisions as we do, and Alembic's table has one name for all of them."""
    engine = connect(empty_url)
    with session(engine) as s:
        s.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
        if foreign is not None:
            s.execute(text("INSERT INTO alembic_version VALUES (:v)"), {"v": foreign})
    assert migrate.current_revision(empty_url) is None
    migrate.upgrade_database(empty_url)
    assert migrate.current_revision(empty_url) == HEAD
    assert version_table(engine, "alembic_version") == ([] if foreign is None else [foreign])
    migrate.downgrade_database(empty_url, "base")
    assert version_table(engine, "alembic_version") == ([] if foreign is None else [foreign])
    engine.dispose()


@pytest.mark.parametrize("beside", [None, "ae1027a6acf"])
def test_the_revision_of_an_earlier_release_is_moved(empty_url: str, beside: str | None) -> None:
    migrate.upgrade_database(empty_url, "0007")
    engine = connect(empty_url)
    with session(engine) as s:
        s.execute(text(f"ALTER TABLE {migrate.VERSION_TABLE} RENAME TO alembic_version"))
        if beside is not None:
            s.execute(text("INSERT INTO alembic_version VALUES (:v)"), {"v": beside})
    assert migrate.current_revision(empty_url) == "0007"
    migrate.upgrade_database(empty_url)
    assert version_table(engine, migrate.VERSION_TABLE) == [HEAD]
    assert version_table(engine, "alembic_version") == (None if beside is None else [beside])
    engine.dispose()


def test_a_newer_releases_database_is_left_alone(database_url: str) -> None:
    engine = connect(database_url)
    with session(engine) as s:
        s.execute(text(f"UPDATE {migrate.VERSION_TABLE} SET version_num = '9999'"))
    for change in (migrate.upgrade_database, lambda url: migrate.downgrade_database(url, "0001")):
        with pytest.raises(StoreError, match=r"9999.*newer"):
            change(database_url)
    with pytest.raises(StoreError, match=r"9999.*newer"):
        check_schema(database_url)
    engine.dispose()


def test_a_database_is_compared_with_the_tables(database_url: str) -> None:
    assert check_schema(database_url) == HEAD
    engine = connect(database_url)
    with session(engine) as s:
        s.execute(text("DROP VIEW hardest_tasks"))
        s.execute(text("DROP TABLE default_models"))
        s.execute(text("ALTER TABLE model_versions DROP COLUMN archived"))
    with pytest.raises(StoreError) as refused:
        check_schema(database_url)
    for missing in ("view 'hardest_tasks'", "table 'default_models'", "column 'model_versions.archived'"):
        assert missing in str(refused.value)
    engine.dispose()


def test_digests_of_erased_entities_are_keyed_by_the_upgrade(empty_url: str) -> None:
    plain = hashlib.sha256(b"4:useranna").hexdigest()
    migrate.upgrade_database(empty_url, "0007")
    engine = connect(empty_url)
    with session(engine) as s:
        row = {"d": plain, "t": NOON}
        s.execute(
            text(
                "INSERT INTO erasures (receipt, kind, entity_digest, entities, events, adaptations, at, confirmed) "
                "VALUES ('r', 'user', :d, 1, 2, 3, :t, :t)"
            ),
            row,
        )
        for action in ("delete entity", "promote"):
            statement = "INSERT INTO audit (at, actor, action, target) VALUES (:t, 'a', :action, :d)"
            s.execute(text(statement), {**row, "action": action})
    migrate.upgrade_database(empty_url)
    with session(engine) as s:
        keyed = entities.entity_digest(s, "user", "anna")
        assert keyed != plain
        assert s.execute(text("SELECT entity_digest FROM erasures")).scalars().all() == [keyed]
        assert s.execute(text("SELECT target FROM audit ORDER BY action")).scalars().all() == [keyed, plain]
        assert entities.erase_entity(s, "user", "anna").receipt == "r"
    engine.dispose()


def test_old_evaluations_are_told_their_run_and_their_number_of_seeds(empty_url: str) -> None:
    """The mean over one seed repeated its row; that over several is kept. Runs are those that versions came from."""
    migrate.upgrade_database(empty_url, "0017")
    engine = connect(empty_url)
    scenario = "new-users/time-support/split-by-seed/full"
    with session(engine) as s:
        _old_run(s, "r1")
        s.execute(text("INSERT INTO models (name, created, updated) VALUES ('m', :t, :t)"), {"t": NOON})
        columns = "model, version, path, run, metrics, created"
        s.execute(text(f"INSERT INTO model_versions ({columns}) VALUES ('m', 'v', '/', 'r1', '{{}}', :t)"), {"t": NOON})
        for seed in (0, None):
            _old_evaluation(s, model="m", model_version="v", seed=seed, scenario=scenario)
            _old_evaluation(s, method="popularity", role="baseline", seed=seed, scenario=scenario)
        for seed in (0, 1, None):
            _old_evaluation(s, seed=seed, dataset="three", scenario="user")
    migrate.upgrade_database(empty_url)
    with reading(engine) as s:
        found = evaluations.page_evaluations(s).items
        digest = runs.get_run(s, "r1").config_digest
        shown = s.execute(
            text("SELECT dataset, method, seed, seeds FROM cold_start_curve ORDER BY method, dataset")
        ).all()
    assert digest == runs.config_digest({"lr": 0.1, "name": "melu"})
    rows = {(r.dataset, r.method, r.seed): (r.run, r.recipe, r.config_digest, r.split, r.seeds) for r in found}
    assert len(rows) == len(found) == 5
    assert rows["movielens-100k", "melu", 0] == ("r1", "melu", digest, "seed", 1)
    assert rows["movielens-100k", "popularity", 0] == (None, None, None, "seed", 1)
    assert {seed: rows["three", "melu", seed] for seed in (0, 1, None)} == dict.fromkeys(
        (0, 1, None), (None, None, None, None, 2)
    )
    assert [tuple(row) for row in shown] == [
        ("movielens-100k", "melu", 0, 1),
        ("three", "melu", None, 2),
        ("movielens-100k", "popularity", 0, 1),
    ]
