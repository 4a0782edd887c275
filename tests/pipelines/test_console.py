"""What is printed is printed as it is: an id may look like markup."""

import pytest

from recsys_meta.store.database import migrate
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.database.engine import connect, session
from recsys_meta.store.entities.adaptations import NewAdaptation, save_adaptations
from recsys_meta.store.entities.events import NewEvent, insert_events
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
