import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recsys_meta.store.database.engine import reading, session
from recsys_meta.store.database.keyset_pagination import Key, KeysetPage, decode_cursor, encode_cursor
from recsys_meta.store.entities import adaptations
from recsys_meta.store.tracking import evaluations, runs
from tests.store.samples import a_run, an_adaptation, an_evaluation, later


def _fill_runs(s: Session, start: int, n: int) -> None:
    for i in range(start, start + n):
        a_run(s, f"r{i:03d}", now=later(i // 4))  # four share each time


def _fill_adaptations(s: Session, start: int, n: int) -> None:
    adaptations.save_adaptations(s, [an_adaptation(f"u{i}", created=later(i // 4)) for i in range(start, start + n)])


def _fill_evaluations(s: Session, start: int, n: int) -> None:
    evaluations.save_evaluations(s, [an_evaluation(shots=i) for i in range(start, start + n)])


LISTS: dict[str, tuple[Callable[..., None], Callable[..., KeysetPage], str]] = {  # type: ignore[type-arg]
    "runs": (_fill_runs, runs.page_runs, "id"),
    "adaptations": (_fill_adaptations, adaptations.page_adaptations, "entity"),
    "evaluations": (_fill_evaluations, evaluations.page_evaluations, "shots"),
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("limit", [1, 7, 30, 31])
def test_pages_are_complete_and_stable_while_rows_come_in(engine: Engine, name: str, limit: int) -> None:
    fill, listed, key = LISTS[name]
    with session(engine) as s:
        fill(s, 0, 30)
    with reading(engine) as s:
        whole = [getattr(row, key) for row in listed(s, limit=1000).items]
    assert len(whole) == 30
    seen: list[object] = []
    cursor, added = None, 100
    while True:
        with session(engine) as s:
            page = listed(s, limit=limit, cursor=cursor)
            fill(s, added, 1)
        added += 1
        seen += [getattr(row, key) for row in page.items]
        if page.next is None:
            break
        cursor = page.next
    assert [key for key in seen if key in whole] == whole
    assert len(seen) == len(set(seen))


def test_filters(engine: Engine) -> None:
    with session(engine) as s:
        a_run(s, "r1")
        a_run(s, "r2")
        runs.set_run_status(s, "r2", "finished")
        adaptations.save_adaptations(
            s, [an_adaptation("u1"), an_adaptation("u2", kind="ad"), an_adaptation("u3", served_by="prior")]
        )
        evaluations.save_evaluations(
            s, [an_evaluation(method="melu", model="m"), an_evaluation(method="popular", role="baseline")]
        )
    with reading(engine) as s:
        assert [r.id for r in runs.page_runs(s, status="finished").items] == ["r2"]
        assert [a.entity for a in adaptations.page_adaptations(s, kind="user", served_by="adapted").items] == ["u1"]
        assert [a.entity for a in adaptations.page_adaptations(s, entity="u2", model_version="v1").items] == ["u2"]
        assert [e.method for e in evaluations.page_evaluations(s, model="m").items] == ["melu"]
        assert [e.method for e in evaluations.page_evaluations(s, method="popular", metric="ndcg@10").items] == [
            "popular"
        ]


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_limit_has_bounds(engine: Engine, limit: int) -> None:
    with pytest.raises(ValueError, match="1 to 1000"), reading(engine) as s:
        runs.page_runs(s, limit=limit)


def _packed(words: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(words).encode()).decode()


GARBAGE = [
    "",
    "x",
    "é",
    "@@@@",
    "A" * 5000,
    encode_cursor("entities", ["a", "b"]),
    _packed(["runs", "2024-01-01T00:00:00", "r"]),
    _packed(["runs", "2024-01-01T00:00:00+00:00", 3]),
    _packed(["runs", 5, "r"]),
    _packed({"runs": 1}),
    _packed(["runs"]),
    _packed(None),
    base64.urlsafe_b64encode(b"[" * 1000).decode(),
]


@pytest.mark.parametrize("cursor", GARBAGE)
def test_garbage_for_a_cursor(engine: Engine, cursor: str) -> None:
    with pytest.raises(ValueError, match="not a cursor of the list of runs"), reading(engine) as s:
        runs.page_runs(s, cursor=cursor)


@pytest.mark.parametrize("number", [True, 2**63, -(2**70), 1.5])
def test_strange_number_in_a_cursor(number: float) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        decode_cursor("evaluations", _packed(["evaluations", number]), (int,))


@given(st.text(max_size=60))
def test_no_text_makes_decoding_fail_otherwise(text: str) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        decode_cursor("runs", text, (datetime, str))


@given(
    st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.timezones()),
    st.text(),
    st.integers(-(2**63), 2**63 - 1),
)
def test_cursor_round_trip(moment: datetime, word: str, number: int) -> None:
    keys: list[Key] = [moment.astimezone(UTC), word[:100], number]
    assert decode_cursor("x", encode_cursor("x", keys), (datetime, str, int)) == keys


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("limit", [10, 30])
def test_a_page_that_ends_with_the_list_has_no_cursor(engine: Engine, name: str, limit: int) -> None:
    """Else a client asks once more, for a page of nothing."""
    fill, listed, _ = LISTS[name]
    with session(engine) as s:
        fill(s, 0, 30)
    with reading(engine) as s:
        cursors, cursor = [], None
        for _ in range(30 // limit):
            page = listed(s, limit=limit, cursor=cursor)
            assert len(page.items) == limit
            cursors.append(cursor := page.next)
        assert [cursor is None for cursor in cursors] == [*[False] * (30 // limit - 1), True]


def test_a_cursor_of_another_list_is_refused_though_its_keys_fit(engine: Engine) -> None:
    keys: list[Key] = [later(3), 7]
    with reading(engine) as s:
        assert adaptations.page_adaptations(s, cursor=encode_cursor("adaptations", keys)).items == []
        with pytest.raises(ValueError, match="not a cursor of the list of adaptations"):
            adaptations.page_adaptations(s, cursor=encode_cursor("audit", keys))
        with pytest.raises(ValueError, match="not a cursor of the list of evaluations"):
            evaluations.page_evaluations(s, cursor=encode_cursor("other", [7]))
