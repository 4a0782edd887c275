"""Outcomes of events: one for each, by the list that the event answers."""

from sqlalchemy import Engine, select

from recsys_meta.store.database.engine import session
from recsys_meta.store.entities import entities, impressions, outcomes
from recsys_meta.store.entities.tables import OutcomeRecord
from tests.store.samples import NOON, an_impression, an_outcome, later


def stored(s):
    return list(s.scalars(select(OutcomeRecord).order_by(OutcomeRecord.event_id)))


def test_an_event_has_one_outcome(engine: Engine) -> None:
    with session(engine) as s:
        assert outcomes.save_outcomes(s, [an_outcome("a"), an_outcome("b", loss=2.0), an_outcome("b", loss=3.0)]) == 2
        assert outcomes.save_outcomes(s, [an_outcome("b", loss=4.0), an_outcome("b", kind="ad")]) == 1
        assert sorted((row.kind, row.event_id, row.loss) for row in stored(s)) == [
            ("ad", "b", 1.0),
            ("user", "a", 1.0),
            ("user", "b", 2.0),
        ]


def test_outcomes_go_with_their_entity_and_by_age(engine: Engine) -> None:
    with session(engine) as s:
        rows = [an_outcome(f"{entity}{n}", entity=entity, created=later(n)) for n in range(4) for entity in ("u", "v")]
        outcomes.save_outcomes(s, rows)
        receipt = entities.erase_entity(s, "user", "u", now=later(10))
        assert receipt.outcomes == 4 and entities.erase_entity(s, "user", "u") == receipt
        assert outcomes.save_outcomes(s, rows) == 0, "what waits in a queue brings nothing back"
        assert outcomes.prune_outcomes(s, later(3)) == 3
        assert [row.event_id for row in stored(s)] == ["v3"]


def test_an_event_answers_the_newest_list_with_its_item(engine: Engine) -> None:
    with session(engine) as s:
        shown = [
            an_impression("a", "b"),
            an_impression("c", "d", first_rank=3, created=later(1)),
            an_impression("e", created=later(2)),
        ]
        impressions.save_impressions(s, shown)
        lists = impressions.recent_impressions(s, "user", "u1", NOON, later(9))

        def answer(item, until=9, popular_rank=None):
            one = outcomes.find_impression(lists, item, later(until))
            if one is None:
                return None
            hits = outcomes.hits_in_list(one, item, popular_rank)
            return one.items, hits["rank"], hits["hit_1"], hits["hit_5"], hits["hit_10"], hits["popular_hit_10"]

        assert answer("b") == (["a", "b"], 2, 0.0, 1.0, 1.0, None)
        assert answer("c", popular_rank=4) == (["c", "d"], 3, 0.0, 1.0, 1.0, 1.0)
        assert answer("e", popular_rank=2) == (["e"], 1, 1.0, 1.0, 1.0, 0.0), "a list of one, beside another of one"
        assert answer("nowhere") == (["e"], None, 0.0, 0.0, 0.0, None)
        assert answer("e", until=1) == (["c", "d"], None, 0.0, 0.0, 0.0, None)
        assert answer("a", until=-1) is None
