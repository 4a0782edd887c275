"""Splits and acts of administrators from the command line."""

import pytest

from pipelines.commands.model_split import parse_arm
from recsys_meta.core.errors import ConfigError
from recsys_meta.models.bundle import save_bundle
from recsys_meta.store.database import migrate
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.database.engine import connect, session
from recsys_meta.store.entities import entities
from recsys_meta.store.entities.outcomes import save_outcomes
from recsys_meta.store.model_registry import registry
from recsys_meta.store.model_registry.split_arms import SplitArm
from recsys_meta.store.model_registry.traffic_splits import start_split
from recsys_meta.store.tracking import evaluations
from tests.api import bundles
from tests.fixtures import stub_predictors as choosing
from tests.pipelines.conftest import Command
from tests.store.samples import an_outcome


@pytest.fixture
def fresh(tmp_path) -> Command:
    """A home with versions a1 and b1 of the model 'shop'; b1 is live."""
    url = f"sqlite:///{tmp_path / 'recsys-meta.db'}"
    migrate.upgrade_database(url)
    engine = connect(url)
    path = save_bundle(bundles.popular(), tmp_path / "bundles")
    with session(engine) as s:
        for version in ("a1", "b1"):
            registry.publish_version(s, "shop", version, str(path))
            evaluations.save_evaluations(s, bundles.evaluation("shop", version))
    engine.dispose()
    return Command(tmp_path)


def acts(command):
    return [(a["action"], a["target"], a["actor"]) for a in command.json("audit")]


def test_a_split_is_started_shown_and_ended(fresh):
    assert "not split" in fresh("models", "split", "shop")
    started = fresh.json("models", "split", "shop", "b=9", "new:a1=1")["split"]
    assert started["arms"] == [
        {"label": "b1", "version": "b1", "weight": 0.9}, {"label": "new", "version": "a1", "weight": 0.1},
    ]  # fmt: skip
    assert "new" in fresh("models", "split", "shop")
    ended = fresh.json("models", "split", "shop", "--off")
    assert (ended["split"], len(ended["history"])) == (None, 2)
    assert acts(fresh) == [("split off", "shop", "command line"), ("split", "shop split 1", "command line")]


def test_the_results_of_a_split_are_shown_also_after_it_ended(fresh):
    fresh("models", "split", "shop", "old:b1=1", "new:a1=1")
    engine = connect(f"sqlite:///{fresh.home / 'recsys-meta.db'}")
    with session(engine) as s:
        rows = [
            an_outcome(
                f"{label} {n}", entity=f"{label} {n}", model="shop", model_version=version, variant=label
            )._replace(
                created=utcnow(), impression=1, hit_1=0.0, hit_5=0.0, hit_10=float(n < hits), reciprocal_rank=0.1
            )
            for label, version, hits in (("old", "b1", 8), ("new", "a1", 70))
            for n in range(80)
        ]
        save_outcomes(s, rows)
    engine.dispose()
    assert "better" in fresh("models", "split", "shop")
    ended = fresh.json("models", "split", "shop", "--off")
    old, new = ended["results"]
    assert (old["label"], old["verdict"], old["hit_10"], old["lists"]) == ("old", "reference", 0.1, 80)
    assert (new["label"], new["verdict"], new["difference"]) == ("new", "better", pytest.approx(62 / 80))
    assert new["ended"] and 0 < new["p"] < 0.001 and new["difference_low"] > 0.4
    printed = fresh("models", "split", "shop")
    assert "not split" in printed and "(ended)" in printed and "better" in printed


def test_moves_and_erasures_are_in_the_audit(fresh):
    fresh("models", "promote", "shop", "a1")
    fresh("models", "rollback", "shop")
    fresh("entities", "delete", "user", "anna", "--yes")
    engine = connect(f"sqlite:///{fresh.home / 'recsys-meta.db'}")
    with session(engine) as s:
        digest = entities.entity_digest(s, "user", "anna")
    engine.dispose()
    assert acts(fresh) == [
        ("delete entity", digest, "command line"),
        ("rollback", "shop@b1", "command line"),
        ("promote", "shop@a1", "command line"),
    ]


def test_arms_are_read():
    assert parse_arm("3f2a=0.1") == SplitArm("", "3f2a", 0.1)
    assert parse_arm("control:3f2a=2e-1") == SplitArm("control", "3f2a", 0.2)
    for wrong in ("3f2a", "=1", "3f2a=", "3f2a=e", "a b=1", "a:b:c=1", "3f2a=nan"):
        with pytest.raises(ConfigError, match="is no arm"):
            parse_arm(wrong)


@pytest.mark.parametrize("words", [("a1=0",), ("a1=-1",), ("zz=1",), ("a1=1", "a1=1"), ("a1=1", "--off")])
def test_splits_that_make_no_sense_are_refused(fresh, words):
    assert fresh("models", "split", "shop", *words, code=1)
    assert fresh.json("models", "split", "shop")["history"] == []


@pytest.fixture
def shop(tmp_path) -> Command:
    """A home in which a baseline is live as 'shop'."""
    migrate.upgrade_database(url_of(tmp_path))
    bundles.publish(url_of(tmp_path), tmp_path / "models", "shop", bundles.popular())
    return Command(tmp_path)


def url_of(home):
    return f"sqlite:///{home / 'recsys-meta.db'}"


def give_all_to(home, bundle):
    """Let an arm 'new' with another version answer for everybody."""
    version = bundles.publish(url_of(home), home / "models", "shop", bundle, live=False)
    engine = connect(url_of(home))
    with session(engine) as s:
        start_split(s, "shop", [SplitArm("new", version, 1)], force=True)
    engine.dispose()
    return version


def answered(command, model="shop"):
    """Which arm and which version answer for an entity, and the list."""
    found = command.json("recommend", model, "--entity", "anna")
    return found["variant"], found["model"]["version"], [row["item"] for row in found["items"]]


def test_an_arm_that_cannot_be_loaded_is_left_to_the_live_version(shop):
    live = answered(shop)
    version = give_all_to(shop.home, bundles.trained(epochs=1))
    assert answered(shop)[:2] == ("new", version)
    (shop.home / "models" / "shop" / version / "bundle.json").write_text("{}")
    assert answered(shop) == live == answered(shop, f"shop@{live[1]}")
    assert live[0] is None


def test_an_arm_for_other_newcomers_is_left_to_the_live_version(shop):
    live = answered(shop)
    with choosing.registered():
        version = give_all_to(shop.home, choosing.clicks())
        assert shop.json("recommend", f"shop@{version}", "--entity", "anna")["model"]["version"] == version
        assert answered(shop) == live
    assert live[0] is None
