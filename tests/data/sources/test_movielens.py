"""MovieLens in its own layouts, with small files of our own making and with the real ones where they lie."""

import numpy as np
import pytest

from recsys_meta.core.dataset import NO_TIME
from recsys_meta.core.errors import ConfigError, DataError
from recsys_meta.core.types import FIRST
from recsys_meta.data import SOURCES, locate, open_dataset, prepare_named
from recsys_meta.data.sources.movielens import GENRES_100K, OCCUPATIONS_1M
from recsys_meta.episodes.event_index import EventIndex
from tests.data.source_files import cells, put, rows


def flags(*genres):
    return "|".join("1" if g in genres else "0" for g in GENRES_100K)


def layout_100k(folder):
    item = f"1|Amélie (2001)|01-Jan-2001||http://x|{flags('Comedy', 'Romance')}\n2|unknown||||{flags('unknown')}\n"
    return put(
        folder,
        u__data="1\t2\t3\t881250949\n2\t1\t5\t891717742\n1\t1\t4\t881250000\n",
        u__user="1|24|M|technician|85711\n2|17|F|other|T8H1N\n",
        u__item=item,
    )


def layout_1m(folder):
    return put(
        folder,
        ratings__dat="1::10::5::978300760\n1::2::3::978300760\n2::10::1::978300000\n",
        users__dat="1::F::1::10::48067\n2::M::56::16::70072-1234\n",
        movies__dat="2::Léon: The: Movie (1994)::Drama|Thriller\n10::Heat (1995)::Action\n11::No one (1950)::War\n",
    )


def test_100k(tmp_path):
    layout_100k(tmp_path / "ml-100k")
    data = prepare_named("movielens-100k", tmp_path / "out", data_root=tmp_path)
    assert rows(data) == [("1", "1", 4.0, 881250000), ("1", "2", 3.0, 881250949), ("2", "1", 5.0, 891717742)]
    assert cells(data, "entity", "age") == [["18-24"], ["under 18"]]
    assert cells(data, "entity", "occupation") == [["technician"], ["other"]]
    assert cells(data, "item", "genres") == [[], [], ["Comedy", "Romance"], []]
    assert cells(data, "item", "decade") == [[], [], ["2000s"], []]
    assert data.about["titles"] == {"1": "Amélie (2001)", "2": "unknown"}
    assert len(data.about["warnings"]) == 3, "it is not the published data"
    assert data.schema.order == "time"


def test_1m_as_published(tmp_path):
    layout_1m(tmp_path / "movielens-1m")
    data = prepare_named("movielens-1m", tmp_path / "out", data_root=tmp_path)
    assert rows(data) == [("1", "10", 5.0, 978300760), ("1", "2", 3.0, 978300760), ("2", "10", 1.0, 978300000)]
    assert list(data.vocab.values["item"]) == ["2", "10"], "numbers in order; films never rated are left out"
    assert cells(data, "entity", "age") == [["under 18"], ["56+"]]
    assert cells(data, "entity", "occupation") == [["K-12 student"], ["self-employed"]]
    assert cells(data, "item", "genres") == [[], [], ["Drama", "Thriller"], ["Action"]]
    assert data.about["titles"]["2"] == "Léon: The: Movie (1994)"
    assert data.schema.exact_time


def test_films_in_utf8_are_read_as_such(tmp_path):
    folder = layout_1m(tmp_path / "ml-1m")
    (folder / "movies.dat").write_text("2::Léon (1994)::Drama\n10::Heat (1995)::Action\n", encoding="utf-8")
    data = prepare_named("movielens-1m", tmp_path / "out", data_root=tmp_path)
    assert data.about["titles"]["2"] == "Léon (1994)"


def test_1m_in_tidy_files_has_rough_times(tmp_path):
    item = "item,title,genres,year,mpaa_rating,released,genre_imdb,director,writer,actors\n"
    put(
        tmp_path / "ml-1m",
        ratings__csv__gz="user,item,rating,approx_ts\n1,5,3,\n1,6,4,978300760\n2,5,3,\n",
        users__csv__gz="user,gender,age,occupation,zip,last_item\n1,F,1,10,48067,5\n2,M,56,16,70072,5\n",
        items__csv__gz=item + '5,Heat (1995),Action,1995,R,x,y,"A B, C D",z,"E, F"\n6,Up,,1995,R,x,y,"C D, A B",z,E\n',
    )
    data = prepare_named("movielens-1m", tmp_path / "out", data_root=tmp_path)
    assert rows(data) == [("1", "6", 4.0, 978300760), ("1", "5", 3.0, None), ("2", "5", 3.0, None)]
    assert not data.schema.exact_time
    assert cells(data, "item", "director") == [[], [], ["A B", "C D"], ["C D", "A B"]]
    assert cells(data, "item", "actors") == [[], [], ["E", "?"], ["E"]]
    assert cells(data, "item", "mpaa_rating") == [[], [], ["R"], ["R"]]


def test_latest(tmp_path):
    movies = 'movieId,title,genres\n1,"Story, The (1995)",Comedy|Drama\n3,Nameless,(no genres listed)\n'
    put(
        tmp_path / "ml-latest-small",
        movies__csv=movies,
        ratings__csv="userId,movieId,rating,timestamp\n1,1,0.5,964982703\n1,3,5.0,964982703\n",
    )
    data = prepare_named("movielens-latest-small", tmp_path / "out", data_root=tmp_path)
    assert rows(data) == [("1", "1", 0.5, 964982703), ("1", "3", 5.0, 964982703)]
    assert cells(data, "item", "genres") == [[], [], ["Comedy", "Drama"], []]
    assert data.about["titles"]["1"] == "Story, The (1995)"
    assert set(data.entities) == {"arrival"}, "there are no demographics, but tastes of 1996 are not those of 2018"


@pytest.mark.parametrize(
    ("name", "make", "spoil", "line", "says"),
    [
        ("100k", layout_100k, ("u.data", "1\t2\t6\t881250949\n"), 1, "outside 1 to 5"),
        ("100k", layout_100k, ("u.user", "1|24|M|technician|85711\n1|24|M|technician|85711\n"), 2, "earlier row"),
        ("1m", layout_1m, ("ratings.dat", "1::10::5::978300760\n1::10::5\n"), 2, "has 3 fields where 4"),
        ("1m", layout_1m, ("ratings.dat", "1::10::5::978300760\n1::10::5::978300760\n"), 2, "repeats"),
        ("1m", layout_1m, ("ratings.dat", "1::10::5::\n"), 1, "is empty"),
    ],
)
def test_bad_rows_in_the_old_layouts(tmp_path, name, make, spoil, line, says):
    folder = make(tmp_path / "raw")
    (folder / spoil[0]).write_text(spoil[1])
    with pytest.raises(DataError, match=says) as caught:
        prepare_named(f"movielens-{name}", tmp_path / "out", source=folder)
    assert caught.value.line == line
    assert spoil[0] in str(caught.value.file)


def test_a_file_of_the_set_is_missing(tmp_path):
    folder = layout_1m(tmp_path / "raw")
    (folder / "users.dat").unlink()
    with pytest.raises(DataError, match=r"users\.dat: the file is missing"):
        prepare_named("movielens-1m", tmp_path / "out", source=folder)


def test_where_data_are_looked_for(tmp_path):
    layout_1m(tmp_path / "root" / "ml-1m")
    assert locate("movielens-1m", None, tmp_path / "root") == tmp_path / "root" / "ml-1m"
    assert locate("movielens-1m", tmp_path / "root", None) == tmp_path / "root" / "ml-1m"
    assert locate("movielens-1m", tmp_path / "root" / "ml-1m", None) == tmp_path / "root" / "ml-1m"
    assert locate("movielens-1m", None, tmp_path / "root" / "ml-1m") is None, "a data root holds folders by name"
    assert locate("movielens-100k", None, tmp_path / "root") is None
    assert locate("movielens-100k", None, None) is None
    with pytest.raises(DataError, match=r"does not hold movielens-100k.*u\.data"):
        locate("movielens-100k", tmp_path / "root", None)
    with pytest.raises(DataError, match="no such directory"):
        locate("movielens-100k", tmp_path / "nowhere", None)
    with pytest.raises(ConfigError, match="no data set 'movielens'; there are movielens-100k"):
        locate("movielens", None, None)
    with pytest.raises(ConfigError, match="simulated"):
        locate("simulated-users", tmp_path, None)


def test_not_found_says_where_to_put_the_files(tmp_path):
    with pytest.raises(DataError) as caught:
        prepare_named("movielens-1m", tmp_path / "out", data_root=tmp_path / "root", download=False)
    for part in (str(tmp_path / "root"), "--source", "RECSYS_META_DATA", "ml-1m", SOURCES["movielens-1m"].url):
        assert part in str(caught.value)


PUBLISHED = {
    "movielens-100k": (943, 1682, 100_000, {1: 6110, 2: 11370, 3: 27145, 4: 34174, 5: 21201}),
    "movielens-1m": (6040, 3706, 1_000_209, {1: 56174, 2: 107557, 3: 261197, 4: 348971, 5: 226310}),
    "movielens-latest-small": (610, 9724, 100_836, {0.5: 1370, 4: 26818, 5: 13211}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_real_data_have_the_published_counts(real, name):
    data = real(name)
    users, films, ratings, histogram = PUBLISHED[name]
    assert (data.events.entity_count, data.catalogue - FIRST, len(data.events)) == (users, films, ratings)
    values, counts = np.unique(data.events.label, return_counts=True)
    found = dict(zip(values.tolist(), counts.tolist(), strict=True))
    assert {k: found[k] for k in histogram} == histogram
    assert data.about["warnings"] == []
    assert data.about["rows_rejected"] == {}
    assert data.about["item_without_features"] == 0
    assert len(data.about["titles"]) == films
    assert np.diff(data.events.indptr).min() >= 20


def test_real_100k_features_and_span(real):
    data = real("movielens-100k")
    assert (data.events.time.min(), data.events.time.max()) == (874724710, 893286638)
    assert list(data.vocab.values["item.genres"]) == sorted(GENRES_100K[1:])
    assert len(data.vocab.values["entity.occupation"]) == 21
    first = np.asarray(data.events.time)[data.events.indptr[0] : data.events.indptr[1]]
    assert (np.diff(first) >= 0).all()
    assert data.about["titles"]["50"] == "Star Wars (1977)"


def test_real_1m_features_and_times(real):
    data = real("movielens-1m")
    assert len(data.vocab.values["item.genres"]) == 18
    assert set(data.vocab.values["entity.occupation"]) == set(OCCUPATIONS_1M)
    assert data.vocab.value("entity", 2) == "1"
    assert cells(data, "entity", "gender")[0] == ["F"]
    assert cells(data, "entity", "age")[0] == ["under 18"]
    if not data.schema.exact_time:
        assert (np.asarray(data.events.time) == NO_TIME).sum() == data.about["unknown_times"] == 199_948
        assert "Tom Hanks" in set(data.vocab.values["item.actors"])
        one = np.asarray(data.events.time)[: data.events.indptr[1]]
        assert (one == NO_TIME).sum() == 53


def test_real_data_can_be_learnt_from(real):
    for name in PUBLISHED:
        index = EventIndex.of(real(name))
        assert len(index.entities_with(20)) == PUBLISHED[name][0]


def test_real_preparation_is_reproducible(real, data_root, tmp_path):
    again = prepare_named("movielens-100k", tmp_path / "x", data_root=data_root, download=False, block=2**16)
    assert again.digest == real("movielens-100k").digest
    assert open_dataset(tmp_path / "x", verify=True).digest == again.digest
