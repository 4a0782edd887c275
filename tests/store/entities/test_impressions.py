"""Lists that were shown: what is kept of them, for whom, and until when."""

import pytest
from sqlalchemy import Engine

from recsys_meta.store.database.engine import session
from recsys_meta.store.entities import entities, impressions
from tests.store.samples import NOON, an_impression, later


def kept(s, entity="u1", until=1000):
    return impressions.recent_impressions(s, "user", entity, NOON, later(until))


def test_a_list_is_kept_with_its_ranks(engine: Engine) -> None:
    with session(engine) as s:
        second_page = an_impression("c", "d", first_rank=3, created=later(5), variant="new")
        assert (
            impressions.save_impressions(s, [an_impression("a", "b"), second_page, an_impression("a", entity="u2")])
            == 3
        )
        newest, first = kept(s)
        assert (first.items, first.first_rank, first.variant, first.propensity) == (["a", "b"], 1, None, 1.0)
        assert (newest.items, newest.first_rank, newest.variant, newest.created) == (["c", "d"], 3, "new", later(5))
        assert [row.items for row in kept(s, until=4)] == [["a", "b"]]


def test_a_list_without_items_was_not_shown_and_a_long_one_is_cut(engine: Engine) -> None:
    with session(engine) as s:
        empty = an_impression()._replace(content=b'{"items": []}', created=later(1))
        many = an_impression(*(f"i{n}" for n in range(150)))
        assert impressions.save_impressions(s, [empty, many]) == 1
        assert [len(row.items) for row in kept(s)] == [impressions.MOST_ITEMS]


def test_answers_with_the_same_list_share_a_row(engine: Engine) -> None:
    with session(engine) as s:
        same = [an_impression(created=later(n), request_id=str(n)) for n in (2, 1, 3)]
        rows = [*same, an_impression("other"), an_impression(variant="b"), an_impression(served_by="cache")]
        assert impressions.save_impressions(s, rows) == 4
        merged = next(row for row in kept(s) if row.answers == 3)
        assert (merged.created, merged.request_id) == (later(1), "2")


def test_lists_go_with_their_entity_and_by_age(engine: Engine) -> None:
    with session(engine) as s:
        rows = [an_impression(f"i{n}", created=later(n), entity=entity) for n in range(4) for entity in ("u1", "u2")]
        impressions.save_impressions(s, rows)
        assert entities.erase_entity(s, "user", "u1", now=later(10)).impressions == 4
        assert impressions.save_impressions(s, rows) == 4, "what waits in a queue brings nothing back"
        assert kept(s) == []
        assert impressions.prune_impressions(s, later(2)) == 4
        assert len(kept(s, "u2")) == 4


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_a_sample_holds_the_share_of_entities_that_was_asked_for(rate: float) -> None:
    sampled = [impressions.is_sampled("user", f"u{n}", rate) for n in range(4000)]
    assert sum(sampled) / 4000 == pytest.approx(rate, abs=0.03)
    assert sampled == [impressions.is_sampled("user", f"u{n}", rate) for n in range(4000)]
    if rate == 0.3:  # a larger sample holds the smaller one
        assert all(impressions.is_sampled("user", f"u{n}", 0.5) for n, is_in in enumerate(sampled) if is_in)
