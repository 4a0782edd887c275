"""Items at the command line: files of every form, bad rows, the same store and checks as over HTTP, the audit log."""

import json

import pandas as pd
import pytest

from recsys_meta.store.access.audit_log import list_audit
from recsys_meta.store.database.engine import connect, reading
from recsys_meta.store.items.items import item_revisions
from tests.api import bundles
from tests.api.servers import serving, settings, wait
from tests.fixtures.migrated_databases import (  # noqa: F401  (fixtures are found by name)
    database_url,
    migrated_file,
    migrated_schema,
    migrated_sqlite,
    schema_pool,
)
from tests.fixtures.services import (  # noqa: F401
    postgres_server,
    postgres_url,
    sqlite_url,
)
from tests.pipelines.conftest import Command


@pytest.fixture(scope="module")
def bundle():
    return bundles.trained()


@pytest.fixture
def url(request, tmp_path, bundle) -> str:
    """The url of a SQLite database in which the model 'users' is live."""
    made = request.getfixturevalue("migrated_sqlite")
    bundles.publish(made, tmp_path / "models", "users", bundle)
    return made


@pytest.fixture
def shop(tmp_path, url) -> Command:
    return Command(tmp_path, {"RECSYS_META_DATABASE_URL": url})


@pytest.fixture
def each_shop(tmp_path, database_url, bundle) -> Command:  # noqa: F811
    """The same once for each kind of database."""
    bundles.publish(database_url, tmp_path / "models", "users", bundle)
    return Command(tmp_path, {"RECSYS_META_DATABASE_URL": database_url})


@pytest.fixture
def feature(bundle) -> tuple[str, str]:
    """A feature of several values, and what separates them."""
    one = next(f for f in bundle.schema.item_features if f.kind == "multi")
    return one.name, one.separator


def audit(shop: Command) -> list[tuple[str, str, str]]:
    with reading(connect(shop.more["RECSYS_META_DATABASE_URL"])) as s:
        return [(row.actor, row.action, row.target) for row in list_audit(s).items][::-1]


def write(path, rows, feature):
    """Items (id, values, title, available) as a file of the form of its name."""
    name, separator = feature
    if path.suffix == ".csv":
        lines = [f"id,title,available,{name}"]
        lines += [f"{i},{title or ''},{'' if a is None else a},{separator.join(v)}" for i, v, title, a in rows]
        path.write_text("\n".join(lines) + "\n")
    elif path.suffix == ".parquet":
        frame = pd.DataFrame(rows, columns=["id", name, "title", "available"])
        frame.astype({"available": "boolean"}).to_parquet(path)
    else:
        keys = [{"id": i, "features": {name: v}, "title": t, "available": a} for i, v, t, a in rows]
        path.write_text("".join(json.dumps(one) + "\n" for one in keys))
    return path


ROWS = [("a", ["x", "y"], "A, the first".replace(",", ""), None), ("b", ["y"], None, False), ("c", [], None, True)]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_a_file_of_any_form_says_the_same_and_again_nothing(shop, tmp_path, feature, suffix):
    file = write(tmp_path / f"items{suffix}", ROWS, feature)
    result = shop.json("items", "import", file)
    assert {k: result[k] for k in ("kind", "new", "changed", "unchanged", "refused")} == {
        **{"kind": "user", "new": 3, "changed": 0, "unchanged": 0, "refused": 0}
    }
    documents = {one["id"]: one for one in shop.json("items", "list")["items"]}
    assert documents["a"]["features"] == {feature[0]: ["x", "y"]}
    assert [documents[i]["available"] for i in "abc"] == [True, False, True]
    assert [documents[i]["title"] for i in "abc"] == ["A the first", None, None]
    assert documents["c"]["features"] == {}
    with reading(connect(shop.more["RECSYS_META_DATABASE_URL"])) as s:
        before = item_revisions(s)
    again = shop.json("items", "import", write(tmp_path / "items.csv", ROWS, feature))
    assert (again["new"], again["changed"], again["unchanged"]) == (0, 0, 3)
    with reading(connect(shop.more["RECSYS_META_DATABASE_URL"])) as s:
        assert item_revisions(s) == before
    assert audit(shop) == [("command line", "import items", f"user 3 of items{suffix}")]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_value_of_a_list_may_hold_the_separator(shop, tmp_path, feature, suffix):
    value = f"x{feature[1]}y"
    shop("items", "import", write(tmp_path / f"items{suffix}", [("a", [value, "z"], None, None)], feature))
    assert shop.json("items", "show", "a")["features"] == {feature[0]: [value, "z"]}


def test_bad_rows_are_named_and_nothing_or_the_rest_is_stored(each_shop, tmp_path, feature):
    shop, (name, separator) = each_shop, feature
    file = tmp_path / "items.csv"
    many = separator.join(str(n) for n in range(101))
    file.write_text(f"id,available,{name}\na,,x\n,,x\nb,perhaps,x\nc,,{many}\nd,true,x,more\ne,,y\n")
    said = shop("items", "import", file, code=1)
    assert "items.csv, line 3, field 'id'" in said
    assert "Nothing was stored; so are 3 other rows" in said
    assert "line 4, field 'available': 'perhaps' is neither true nor false" in said
    assert f"line 5, field '{name}'" in said
    assert "line 6" in said
    assert shop.json("items", "list")["items"] == []
    result = shop.json("items", "import", file, "--on-error", "skip")
    assert (result["new"], result["refused"]) == (2, 4)
    assert [one["line"] for one in result["bad_rows"]] == [3, 4, 5, 6]
    assert {one["id"] for one in shop.json("items", "list")["items"]} == {"a", "e"}
    assert shop("items", "import", file, "--on-error", "perhaps", code=2)


def test_features_are_those_of_the_models(shop, tmp_path, feature, bundle):
    file = tmp_path / "items.jsonl"
    file.write_text('{"id": 7, "features": {"shoe size": 44}}\n')
    said = shop("items", "import", file, code=1)
    assert "items.jsonl, line 1, field 'shoe size': no model has such a feature" in said
    assert feature[0] in said
    number = next(f.name for f in bundle.schema.item_features if f.kind == "numeric")
    file.write_text(f'{{"id": 7, "{number}": "long", "price": 3}}\n{{"id": 8, "{number}": 2.5}}\n')
    assert "price" in shop("items", "import", file, code=1)
    said = shop("items", "import", file, "--features", number, code=1)
    assert f"line 1, field '{number}': 'long' is not a finite number" in said
    shop("items", "import", file, "--features", number, "--on-error", "skip", "--model", "users", "--kind", "user")
    assert shop.json("items", "show", "8")["features"] == {number: 2.5}
    assert "not 'ad'" in shop("items", "import", file, "--model", "users", "--kind", "ad", code=1)
    assert "no such column of features" in shop("items", "import", file, "--features", "nope", code=1)
    assert "no such file" in shop("items", "import", tmp_path / "away.csv", code=1)
    file.write_text('{"name": "x"}\n')
    assert "field 'id'" in shop("items", "import", file, code=1)


def test_without_a_model_a_kind_is_needed(tmp_path, migrated_sqlite):  # noqa: F811
    shop = Command(tmp_path, {"RECSYS_META_DATABASE_URL": migrated_sqlite})
    file = tmp_path / "items.jsonl"
    file.write_text('{"id": "a", "tags": ["x", "y"], "size": 4}\n')
    assert "A kind is needed" in shop("items", "import", file, code=1)
    assert shop.json("items", "import", file, "--kind", "user")["new"] == 1
    assert shop.json("items", "show", "a", "--kind", "user")["features"] == {"tags": ["x", "y"], "size": 4}


def test_items_are_hidden_shown_again_and_deleted(each_shop, tmp_path, feature):
    shop = each_shop
    shop("items", "import", write(tmp_path / "items.csv", ROWS[:1], feature))
    hidden = shop.json("items", "hide", "a", "i7")["items"]
    assert [(one["id"], one["available"], one["trained_by"]) for one in hidden] == [
        ("a", False, []),
        ("i7", False, ["users"]),
    ]
    assert {one["id"] for one in shop.json("items", "list", "--hidden")["items"]} == {"a", "i7"}
    assert "no item 'nobody's'" in shop("items", "hide", "a", "nobody's", code=1)
    assert shop.json("items", "unhide", "a")["items"][0]["available"] is True
    assert "lists may hold it" in shop("items", "unhide", "a")
    assert shop("items", "delete", "a", code=1)  # nobody confirms
    deleted = shop.json("items", "delete", "a", "a never there", "--yes")
    assert deleted["items"] == [{"id": "a", "deleted": True}, {"id": "a never there", "deleted": False}]
    assert "no item" in shop("items", "show", "a", code=1)
    actions = [(action, target) for _, action, target in audit(shop)]
    assert actions == [
        ("import items", "user 1 of items.csv"),
        ("hide item", "user a"),
        ("hide item", "user i7"),
        ("show item", "user a"),
        ("show item", "user a"),
        ("delete item", "user a"),
    ]


def test_a_server_lists_what_the_command_line_stores(shop, url, tmp_path, feature):
    with serving(settings(tmp_path, url)) as server:

        def listed() -> list[str]:
            return [one["item"] for one in server.recommend("i3", n=1000).json()["items"]]

        shop("items", "import", write(tmp_path / "items.parquet", ROWS[:1], feature))
        wait(lambda: "a" in listed())
        rows = server.recommend("i3", n=9, candidates=["a", "i4", "i7"]).json()["items"]
        own = shop.json("recommend", "users", "--items", "i3", "--candidates", "a,i4,i7")["items"]
        assert [(one["item"], one["title"]) for one in own] == [(one["item"], one["title"]) for one in rows]
        assert [one["score"] for one in own] == pytest.approx([one["score"] for one in rows])
        document = server.client.get("/v1/items/a").json()
        shown = shop.json("items", "show", "a")
        assert {k: v for k, v in document.items() if k not in ("created", "updated")} == {
            k: v for k, v in shown.items() if k not in ("created", "updated")
        }
        body = {"items": [{"id": "a", "features": document["features"], "title": document["title"]}]}
        assert server.client.post("/v1/items", json=body).json()["items"][0]["outcome"] == "unchanged"
        shop("items", "hide", "a", "i7")
        wait(lambda: not {"a", "i7"} & set(listed()))
        own = shop.json("recommend", "users", "--items", "i3", "-n", 1000)["items"]
        assert [one["item"] for one in own] == listed()


def test_a_batch_lists_what_is_stored_as_one_list_does(shop, bundle, tmp_path, feature):
    known = [str(name) for name in bundle.vocab.values["item"]]
    shop("items", "import", write(tmp_path / "items.csv", [("fresh", [], None, None)], feature))
    shop("items", "hide", known[5])
    events = tmp_path / "events.csv"
    events.write_text(f"entity,item\nu,{known[0]}\nu,{known[1]}\nv,{known[2]}\n")
    out = tmp_path / "lists.parquet"
    shop("adapt", "users", "--events", events, "--out", out, "-n", 1000)
    lists = {row["entity"]: row for row in pd.read_parquet(out).to_dict("records")}
    assert all("fresh" in row["items"] and known[5] not in row["items"] for row in lists.values())
    alone = shop.json("recommend", "users", "--items", f"{known[0]},{known[1]}", "-n", 1000)["items"]
    assert list(lists["u"]["items"]) == [one["item"] for one in alone]
    shop("items", "hide", "fresh")
    shop("adapt", "users", "--events", events, "--out", out, "-n", 1000)
    assert all("fresh" not in items for items in pd.read_parquet(out)["items"])


def test_recommend_draws_for_places_of_new_items(shop, tmp_path, feature):
    shop("items", "import", write(tmp_path / "items.csv", ROWS, feature))
    words = ("recommend", "users", "--items", "i3")
    assert "fresh" not in shop.json(*words)
    drawn = shop.json(*words, "--fresh", "slots=2", "--fresh-seed", 7)
    new = {one["item"] for one in drawn["items"]} & {"a", "b", "c"}
    assert new == {one["item"] for one in drawn["fresh"]["items"]} == {"a", "c"}  # b is hidden
    assert drawn["fresh"]["seed"] == 7 and drawn["next"] is None
    by_default = Command(shop.home, {**shop.more, "RECSYS_META_FRESH": "users:slots=1"})
    assert len(by_default.json(*words)["fresh"]["items"]) == 1
    assert "fresh" not in by_default.json(*words, "--fresh", "none")
    assert "slots=N or share=S" in shop(*words, "--fresh", "slots=x", code=1)
