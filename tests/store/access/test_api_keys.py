"""Keys and the audit in both databases."""

import pytest
from sqlalchemy import select, text

from recsys_meta.core.errors import ConflictError, NotFoundError
from recsys_meta.store.access.api_keys import active_keys, create_key, key_digest, list_keys, revoke_key
from recsys_meta.store.access.audit_log import list_audit, record_action
from recsys_meta.store.access.tables import ApiKeyRecord
from recsys_meta.store.database.engine import reading, session
from tests.store.samples import NOON, later


def make(engine, name="app", scopes=("read",), **more):
    with session(engine) as s:
        return create_key(s, name, scopes, actor="ann", **{"now": NOON, **more})


def test_a_key_is_kept_as_a_digest_only(engine):
    made = make(engine, scopes=["write", "read"])
    with reading(engine) as s:
        (row,) = list_keys(s)
        assert (row.name, row.scopes, row.id) == ("app", "read+write", made.row.id)
        assert row.digest == key_digest(made.text)
        everything = " ".join(
            str(v) for t in ("api_keys", "audit") for r in s.execute(text(f"SELECT * FROM {t}")) for v in r
        )
    mark, id, secret = made.text.split("_", 2)
    assert (mark, id) == ("rsm", row.id)
    assert len(secret) >= 43
    assert id in everything
    assert secret not in everything


def test_keys_differ(engine):
    made = [make(engine) for _ in range(20)]
    assert len({m.text for m in made}) == len({m.row.id for m in made}) == 20


def test_a_revoked_key_no_longer_stands(engine):
    first, second = make(engine, "one"), make(engine, "two")
    with session(engine) as s:
        assert revoke_key(s, "one", actor="bob", now=later(1)).id == first.row.id
    with session(engine) as s:
        again = revoke_key(s, first.row.id, actor="bob", now=later(2))
        assert again.revoked == later(1)
    with reading(engine) as s:
        assert [row.id for row in active_keys(s)] == [second.row.id]
        acts = [(a.action, a.target, a.actor, a.at) for a in list_audit(s).items]
    assert acts[0] == ("key revoke", first.row.id, "bob", later(1))
    assert len(acts) == 3


def test_a_name_shared_by_two_keys_is_no_name_to_revoke_by(engine):
    old, new = make(engine), make(engine)
    with pytest.raises(ConflictError, match=new.row.id), session(engine) as s:
        revoke_key(s, "app", actor="bob")
    with session(engine) as s:
        revoke_key(s, old.row.id, actor="bob")
    with session(engine) as s:
        assert revoke_key(s, "app", actor="bob").id == new.row.id
    with pytest.raises(NotFoundError), session(engine) as s:
        revoke_key(s, "nobody", actor="bob")


@pytest.mark.parametrize(
    ("name", "scopes", "more"),
    [
        ("", ["read"], {}),
        (" ", ["read"], {}),
        ("a\nb", ["read"], {}),
        ("x" * 101, ["read"], {}),
        ("app", [], {}),
        ("app", ["reed"], {}),
        ("app", ["read"], {"expires": NOON}),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(engine, name, scopes, more):
    with pytest.raises(ValueError, match="key"):
        make(engine, name, scopes, **more)
    with reading(engine) as s:
        assert s.scalars(select(ApiKeyRecord)).all() == []
        assert list_audit(s).items == []


def test_a_key_that_ended_still_stands_for_readers_to_judge(engine):
    make(engine, expires=later(10))
    with reading(engine) as s:
        assert [row.expires for row in active_keys(s)] == [later(10)]


def test_the_audit_is_paged_newest_first_and_filtered(engine):
    with session(engine) as s:
        for n in range(5):
            record_action(
                s, "promote" if n % 2 else "rollback", f"m@{n}", actor="ann", request_id=f"r{n}", now=later(n)
            )
    with reading(engine) as s:
        first = list_audit(s, limit=2)
        rest = list_audit(s, limit=10, cursor=first.next)
        assert [a.target for a in [*first.items, *rest.items]] == ["m@4", "m@3", "m@2", "m@1", "m@0"]
        assert [a.target for a in list_audit(s, action="promote").items] == ["m@3", "m@1"]
        assert list_audit(s, actor="bob").items == []
        assert first.items[0].request_id == "r4"


def test_an_act_that_fails_leaves_no_entry(engine):
    with pytest.raises(RuntimeError), session(engine) as s:
        record_action(s, "promote", "m@1", actor="ann")
        raise RuntimeError
    with reading(engine) as s:
        assert list_audit(s).items == []
