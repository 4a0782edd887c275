"""MovieLens 1M as a log of ads: films with enough rows, in blocks by user id, backwards and forwards."""

import numpy as np
import pytest

from recsys_meta.core.errors import DataError
from recsys_meta.data import prepare_named
from recsys_meta.data.sources.movielens_ads import MIN_ROWS
from tests.data.source_files import cells, put

BOTH = ("movielens-1m-ads", "movielens-1m-ads-forward")


def layout(folder, more=""):
    """Film 1 was rated by 90 users, film 2 by 80, film 3 by 79; odd users liked it."""
    rows = [(u, f) for u in range(1, 91) for f, n in ((1, 90), (2, 80), (3, MIN_ROWS - 1)) if u <= n]
    return put(
        folder / "ml-1m",
        ratings__dat="".join(f"{u}::{f}::{4 + u % 2 * 1 if f == 1 else 3 + u % 2}::97\n" for u, f in rows) + more,
        users__dat="".join(f"{u}::{'FM'[u % 2]}::25::{u % 20}::48067\n" for u in range(1, 91)),
        movies__dat="1::Heat (1995)::Action\n2::Seven Heat (1989)::Crime|War\n3::No one (1950)::War\n",
    )


@pytest.mark.parametrize("name", BOTH)
def test_films_are_ads_and_users_see_them(tmp_path, name):
    layout(tmp_path)
    data = prepare_named(name, tmp_path / "out", data_root=tmp_path)
    assert list(data.vocab.values["entity"]) == ["1", "2"], "a film of 79 rows is no ad"
    assert data.events.counts.tolist() == [90, 80]
    first = [data.vocab.value("item", int(i)) for i in data.events.item[:3]]
    assert first == (["90", "89", "88"] if name.endswith("forward") else ["1", "2", "3"])
    assert data.events.label[:90].all(), "4 and 5 are clicks"
    assert data.events.label[90:].mean() == 0.5, "3 is none"
    assert cells(data, "entity", "title") == [["heat"], ["?", "heat"]]
    assert cells(data, "entity", "genres") == [["Action"], ["Crime", "War"]]
    assert cells(data, "entity", "decade") == [["1990s"], ["1980s"]]
    assert cells(data, "item", "gender")[2:4] == [["M"], ["F"]]
    schema = data.schema
    assert (schema.name, schema.kind, schema.objective, schema.order) == (name, "ad", "click", "time")
    assert (schema.shots, schema.query_from, schema.past_rows, schema.least_rows) == ((0, 20, 40, 60), 60, 300, 80)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(
    ("row", "field"), [("91::1::good::97\n", "click"), ("nobody::1::5::97\n", "turn"), ("::1::5::97\n", "user")]
)
def test_bad_ratings_keep_their_lines(tmp_path, name, row, field):
    layout(tmp_path, row)
    with pytest.raises(DataError) as caught:
        prepare_named(name, tmp_path / "out", data_root=tmp_path)
    assert (caught.value.line, caught.value.field) == (90 + 80 + 79 + 1, field)
    assert prepare_named(name, tmp_path / "out", data_root=tmp_path, on_error="skip").events.counts.tolist() == [90, 80]


@pytest.mark.parametrize("name", BOTH)
def test_real_ads_are_the_published_ones(real, name):
    data = real(name)
    counts = data.events.counts
    old = counts >= data.schema.past_rows
    assert (old.sum(), (~old).sum()) == (1_058, 1_127)
    assert data.about["warnings"] == []
    ad = np.repeat(np.arange(len(counts)), counts)
    row = np.arange(len(ad)) - np.asarray(data.events.indptr)[ad]
    label = np.asarray(data.events.label)
    hold_out = ~old[ad] & (row >= data.schema.query_from)
    assert hold_out.sum() == 123_787
    assert round(float(label[~old[ad]].mean()), 3) == 0.444
    assert round(float(label[old[ad]].mean()), 3) == 0.618
    # The published .444 is that of all rows of new ads; their hold-out alone is a little better liked.
    assert round(float(label[hold_out].mean()), 3) == (0.447 if name.endswith("forward") else 0.451)
    users = np.array([int(u) for u in data.vocab.values["item"]])[np.asarray(data.events.item) - 2]
    step = np.diff(users)[np.diff(ad) == 0]
    assert (step < 0 if name.endswith("forward") else step > 0).all()
