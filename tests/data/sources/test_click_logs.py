"""Logs of clicks in context: trivago's lists and Frappe's usages, small ones of our own and the real ones."""

import numpy as np
import pytest

from recsys_meta.core.errors import DataError
from recsys_meta.core.types import FIRST
from recsys_meta.data import describe, prepare_named
from recsys_meta.data.sources.frappe import sample_unused_apps
from tests.data.source_files import cells, put

LISTS = (
    "event,user,session,timestamp,step,platform,city,device,filters\n"
    '0,u1,0,1541599553,3,FR,"Marseille, France",tablet,\n'
    '1,u2,0,1541599000,3,FR,"Paris, France",mobile,Pool|Wi-Fi|Bar\n'
)
SHOWN = "event,item,position,price,click\n0,h1,1,100,0\n0,h2,2,50,1\n0,h3,3,200,0\n1,h2,1,80,0\n1,h9,2,80,0\n"


def trivago(tmp_path, lists=LISTS, shown=SHOWN, on_error="fail"):
    if not (tmp_path / "trivago-100k").exists():
        put(tmp_path / "trivago-100k", events__csv=lists, impressions__csv__gz=shown)
    return prepare_named("trivago-100k", tmp_path / "out", data_root=tmp_path, on_error=on_error)


def test_hotels_in_lists(tmp_path):
    data = trivago(tmp_path)
    events = data.events
    assert list(data.vocab.values["entity"]) == ["h1", "h2", "h3", "h9"]
    assert events.counts.tolist() == [1, 2, 1, 1]
    assert events.time.tolist() == [1541599553, 1541599000, 1541599553, 1541599553, 1541599000]
    assert events.group.tolist() == [0, 1, 0, 0, 1]
    assert [data.vocab.value("item", int(i)) for i in events.item] == ["u1", "u2", "u1", "u1", "u2"]
    assert events.label.tolist() == [0, 0, 1, 0, 0]
    position = [data.vocab.value("context.position", int(i)) for i in events.context["position"]]
    assert position == ["1", "1", "2", "3", "2"]
    np.testing.assert_allclose(np.exp(events.context["log_price"]), [100, 80, 50, 200, 80], rtol=1e-5)
    np.testing.assert_allclose(np.exp(events.context["price_to_list"]), [1, 1, 0.5, 2, 1], rtol=1e-5)
    np.testing.assert_allclose(events.context["price_rank"], [0.5, 0.5, 0, 1, 0.5])
    np.testing.assert_allclose(events.context["filters"], [0, 3, 0, 0, 3])
    device = [data.vocab.value("context.device", int(i)) for i in events.context["device"]]
    assert device == ["tablet", "mobile", "tablet", "tablet", "mobile"]
    assert cells(data, "entity", "city") == [[c] for c in ("Marseille, France", "Paris, France")] + [
        ["Marseille, France"],
        ["Paris, France"],
    ], "h2 was first shown in Paris"
    assert cells(data, "entity", "country") == [["France"]] * 4
    assert data.about["warnings"][-1] == "1 of 2 groups of 'event' have no click"


@pytest.mark.parametrize(
    ("row", "field", "says"),
    [
        ("0,h4,4,0,0\n", "log_price", "'the price 0' is not a finite number"),
        ("0,h4,4,-5,0\n", "log_price", "'the price -5' is not a finite number"),
        ("0,h4,4,cheap,0\n", "log_price", "'the price cheap' is not a finite number"),
        ("0,h4,4,9,2\n", "click", "'2' is outside 0 to 1"),
        ("7,h4,4,9,0\n", "user", "is empty"),
        ("0,,4,9,0\n", "hotel", "is empty"),
    ],
)
def test_bad_showings_keep_their_lines(tmp_path, row, field, says):
    shown = SHOWN + row
    with pytest.raises(DataError, match=says) as caught:
        trivago(tmp_path, shown=shown)
    assert (caught.value.line, caught.value.field) == (7, field)
    data = trivago(tmp_path, shown=shown, on_error="skip")
    assert len(data.events) == 5


def test_a_price_may_be_missing(tmp_path):
    data = trivago(tmp_path, shown=SHOWN.replace("0,h3,3,200,0", "0,h3,3,,0"))
    row = int(data.events.indptr[2])
    for name in ("log_price", "price_to_list", "price_rank"):
        assert np.isnan(data.events.context[name]).nonzero()[0].tolist() == [row]


def test_data_that_may_not_be_passed_on_say_how_to_come_by_them(tmp_path):
    for name in ("trivago-100k", "frappe", "foursquare-us"):
        with pytest.raises(DataError, match="was not found") as caught:
            prepare_named(name, tmp_path / "out", data_root=tmp_path)
        assert "docs/data.md" in caught.value.remedy
        assert f"put it as {name} under RECSYS_META_DATA" in caught.value.remedy


def test_real_lists(real):
    data = real("trivago-100k")
    found = describe(data)
    assert (found["entities"], found["items"], found["events"], found["groups"]) == (106_866, 6_593, 312_539, 13_597)
    assert data.about["warnings"] == ["1 of 13,597 groups of 'event' have no click"]
    assert data.events.label.sum() == 13_596
    counts = data.events.counts
    assert [int((counts >= n).sum()) for n in (5, 10, 20)] == [17_725, 5_029, 877]
    position = np.array(data.vocab.values["context.position"], int)[np.asarray(data.events.context["position"]) - FIRST]
    assert 0.3 < data.events.label[position == 1].mean() < 0.32
    group = np.asarray(data.events.group)
    relative = np.asarray(data.events.context["price_to_list"])
    middle = [np.median(relative[group == g]) for g in range(0, 13_597, 501)]
    assert np.abs(middle).max() < 0.1, "half of a list is dearer than its median"


USED = (
    "user,item,cnt,daytime,weekday,isweekend,homework,cost,weather,country,city\n"
    "a,x,1,morning,sunday,weekend,unknown,free,sunny,Peru,0\n"
    "a,y,7,night,monday,workday,home,free,sunny,Peru,0\n"
    "b,x,1,morning,sunday,weekend,unknown,paid,rainy,Spain,9\n"
    "c,z,1,morning,sunday,weekend,unknown,paid,rainy,Spain,9\n"
    "c,w,1,noon,sunday,weekend,unknown,paid,rainy,Spain,9\n"
)
APPS = "item,package,name,category,downloads,developer,language,price,rating,short_desc,description\n" + "".join(
    f'{i},p,n,{c},"1,000",unknown,en,{p},4,s,d\n'
    for i, c, p in (("w", "Tools", "Free"), ("x", "unknown", "$2.99"), ("y", "News", "unknown"), ("z", "Tools", "Free"))
)


def test_usages_and_made_refusals(tmp_path):
    put(tmp_path / "frappe", interactions__csv=USED, items__csv=APPS)
    data = prepare_named("frappe", tmp_path / "out", data_root=tmp_path)
    events = data.events
    assert len(events) == 15
    assert events.label.sum() == 5
    app = data.vocab.values["entity"][np.repeat(np.arange(events.entity_count), events.counts)]
    user = data.vocab.values["item"][np.asarray(events.item) - FIRST]
    rows = list(zip(user, app, events.label, strict=True))
    used = {("a", "x"), ("a", "y"), ("b", "x"), ("c", "z"), ("c", "w")}
    assert {(u, a) for u, a, y in rows if y} == used
    assert not used & {(u, a) for u, a, y in rows if not y}
    night = events.context["daytime"] == data.vocab.ids("context.daytime", ["night"])[0]
    assert sorted(user[night]) == ["a"] * 3, "refusals are made in the context of the usage"
    assert events.label[night].sum() == 1
    assert data.schema.order == "random"
    assert cells(data, "entity", "category") == [["Tools"], [], ["News"], ["Tools"]]
    assert cells(data, "entity", "price") == [["free"], ["paid"], [], ["free"]]
    again = prepare_named("frappe", tmp_path / "again", data_root=tmp_path, block=64)
    assert again.digest == data.digest


def test_a_user_of_everything_is_an_error(tmp_path):
    used = USED + "a,z,1,noon,sunday,weekend,unknown,paid,rainy,Spain,9\n"
    put(tmp_path / "frappe", interactions__csv=used, items__csv=APPS)
    with pytest.raises(DataError, match="used every app"):
        prepare_named("frappe", tmp_path / "out", data_root=tmp_path)


def test_refusals_are_uniform_over_what_was_never_used():
    user = np.repeat([0, 1], 6000)
    app = np.concatenate([np.arange(6000) % 3, np.full(6000, 9)])
    drawn = sample_unused_apps(user, app, 10, np.random.default_rng(0))
    assert (drawn[:, 0] != drawn[:, 1]).all()
    for u, never in ((0, range(3, 10)), (1, range(9))):
        counts = np.bincount(drawn[user == u].ravel(), minlength=10)
        assert np.flatnonzero(counts).tolist() == list(never)
        wanted = 12_000 / len(never)
        assert np.abs(counts[list(never)] / wanted - 1).max() < 0.1


def test_real_usages(real):
    data = real("frappe")
    assert (data.events.entity_count, data.catalogue - FIRST, len(data.events)) == (4_082, 957, 288_609)
    assert data.about["warnings"] == []
    assert data.about["entity_without_features"] == 0
    assert data.events.label.sum() == 96_203
    app = np.repeat(np.arange(data.events.entity_count), data.events.counts)
    pair = app * 10_000 + np.asarray(data.events.item)
    clicked = np.asarray(data.events.label) > 0
    assert not np.intersect1d(pair[clicked], pair[~clicked]).size
    assert [len(data.vocab.values[f"context.{c}"]) for c in ("daytime", "weekday", "weather")] == [7, 7, 9]
