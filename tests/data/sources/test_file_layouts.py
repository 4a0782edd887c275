"""Files as they are published come in by a schema alone: twenty layouts, each in the shape of a well-known data set."""

import gzip
import json
import zipfile

import pandas as pd
import pytest

from recsys_meta.core.errors import ConfigError, DataError
from recsys_meta.data import prepare_custom
from tests.data.source_files import cells, rows


def prepared(folder, schema, on_error="fail", block=2**20, **files):
    """Prepare a schema with its files, whose names have __ for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (folder / name.replace("__", ".")).write_bytes(data)
    (folder / "schema.toml").write_text(schema, encoding="utf-8")
    return prepare_custom(folder / "schema.toml", folder / "out", on_error, block=block)


MOVIELENS_DAT = """
name = "ml"
entity = "user"
item = "movie"
label = "rating"
time = "time"
[files]
separator = "::"
encoding = "latin-1"
title = "title"
events = { path = "ratings.dat", columns = ["user", "movie", "rating", "time"] }
entities = { path = "users.dat", columns = ["user", "gender", "age", "job", "zip"] }
items = { path = "movies.dat", columns = ["movie", "title", "genres"] }
[[entity_features]]
name = "gender"
[[item_features]]
name = "genres"
kind = "multi"
"""


@pytest.mark.parametrize("block", [1, 2**20])
def test_movielens_dat(tmp_path, block):
    data = prepared(
        tmp_path,
        MOVIELENS_DAT,
        block=block,
        ratings__dat="1::10::5::978300760\n1::20::3::978300761\n2::10::1::978300762\n",
        users__dat="1::F::1::10::48067\n2::M::56::16::70072\n",
        movies__dat='10::"Great" Café: Live (1995)::Comedy|Drama\n20::Les Misérables (1995)::Drama\n'.encode("latin-1"),
    )
    assert rows(data) == [("1", "10", 5, 978300760), ("1", "20", 3, 978300761), ("2", "10", 1, 978300762)]
    assert cells(data, "entity", "gender") == [["F"], ["M"]]
    assert cells(data, "item", "genres") == [[], [], ["Comedy", "Drama"], ["Drama"]]
    assert data.about["titles"] == {"10": '"Great" Café: Live (1995)', "20": "Les Misérables (1995)"}


def test_movielens_in_the_zip_file_that_is_downloaded(tmp_path):
    with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w") as archive:
        archive.writestr("ml-1m/ratings.dat", "1::10::5::978300760\n2::10::1::978300762\n")
        archive.writestr("ml-1m/users.dat", "1::F::1::10::48067\n2::M::56::16::70072\n")
        archive.writestr("ml-1m/movies.dat", "10::Toy Story (1995)::Comedy\n")
    data = prepared(tmp_path, MOVIELENS_DAT.replace('path = "', 'path = "ml-1m.zip/ml-1m/'))
    assert [r[:3] for r in rows(data)] == [("1", "10", 5), ("2", "10", 1)]
    with pytest.raises(DataError, match=r"holds 3 files.*ml-1m/ratings\.dat"):
        prepared(tmp_path, MOVIELENS_DAT.replace('"ratings.dat"', '"ml-1m.zip"'))
    with pytest.raises(DataError, match="holds no such file"):
        prepared(tmp_path, MOVIELENS_DAT.replace('"ratings.dat"', '"ml-1m.zip/rating.dat"'))


BOOK_CROSSING = """
name = "books"
entity = "User-ID"
item = "ISBN"
label = "Book-Rating"
label_range = [0, 10]
[files]
encoding = "latin-1"
escape = "\\\\"
title = "Book-Title"
events = { path = "BX-Book-Ratings.csv", where = { Book-Rating = { min = 1 } } }
entities = "BX-Users.csv"
items = "BX-Books.csv"
[[entity_features]]
name = "age"
column = "Age"
kind = "numeric"
[[item_features]]
name = "author"
column = "Book-Author"
"""


def test_book_crossing(tmp_path):
    ratings = '"User-ID";"ISBN";"Book-Rating"\n"1";"0195153448";"0"\n"1";"034545104X";"5"\n"2";"034545104X";"9"\n'
    users = '"User-ID";"Location";"Age"\n"1";"nyc, new york, usa";NULL\n"2";"köln, -, germany";"18"\n'
    books = '"ISBN";"Book-Title";"Book-Author"\n"034545104X";"The \\"Flesh\\"; Tones";"M. J. Rose"\n'
    files = {"BX-Book-Ratings": ratings, "BX-Users": users, "BX-Books": books}
    data = prepared(tmp_path, BOOK_CROSSING, **{f"{n}__csv": text.encode("latin-1") for n, text in files.items()})
    assert [r[:3] for r in rows(data)] == [("1", "034545104X", 5), ("2", "034545104X", 9)]
    assert data.about["titles"] == {"034545104X": 'The "Flesh"; Tones'}
    assert cells(data, "item", "author") == [[], [], ["M. J. Rose"]]
    assert data.entities["age"].values.tolist()[1] == 18


AMAZON = """
name = "amazon"
entity = "reviewerID"
item = "asin"
label = "overall"
time = "unixReviewTime"
[files]
events = "reviews.json.gz"
items = { path = "meta.json.gz", key = "asin" }
[[item_features]]
name = "brand"
[[item_features]]
name = "category"
kind = "multi"
[[item_features]]
name = "price"
kind = "numeric"
"""


@pytest.mark.parametrize("block", [40, 2**20])
def test_amazon_json_lines(tmp_path, block):
    reviews = [
        {"overall": 5.0, "reviewerID": "A1", "asin": "B1", "unixReviewTime": 1252800000, "style": {"Size:": "L"}},
        {"overall": 2.0, "reviewerID": "A1", "asin": "B2", "unixReviewTime": 1252886400, "reviewText": 'a, "b"'},
        {"overall": 4.0, "reviewerID": "A2", "asin": "B1", "unixReviewTime": 1252886400},
    ]
    meta = [
        {"asin": "B1", "brand": "Sony", "category": ["Electronics", "Audio", None], "price": 9.5, "also": []},
        {"asin": "B2", "brand": None, "category": [], "price": None},
    ]
    lines = ["\n".join(map(json.dumps, some)).encode() for some in (reviews, meta)]
    data = prepared(
        tmp_path, AMAZON, block=block, reviews__json__gz=gzip.compress(lines[0]), meta__json__gz=gzip.compress(lines[1])
    )
    assert rows(data) == [("A1", "B1", 5, 1252800000), ("A1", "B2", 2, 1252886400), ("A2", "B1", 4, 1252886400)]
    assert cells(data, "item", "category") == [[], [], ["Electronics", "Audio"], []]
    assert cells(data, "item", "brand") == [[], [], ["Sony"], []]
    broken = lines[0].replace(b'"A2"', b'"A2')
    with pytest.raises(DataError, match="is not JSON") as caught:
        prepared(tmp_path, AMAZON, reviews__json__gz=gzip.compress(broken))
    assert caught.value.line == 3


LASTFM_1K = """
name = "lastfm-1k"
entity = "user"
item = "artist"
time = "at"
[files]
quotes = false
duplicates = "keep"
[files.events]
path = "plays.tsv"
columns = ["user", "at", "artist", "name", "track", "title"]
where = { artist = { not = "" } }
"""


def test_lastfm_1k(tmp_path):
    text = (
        "user_000001\t2009-05-04T23:08:57Z\tf1b1cf71\tDeep Dish\t\tFuck Me I'm \"Famous\n"
        "user_000001\t2009-05-04T13:54:10Z\ta7f7df4a\t坂本龍一\t\tComposition 0919\n"
        "user_000001\t2009-05-04T13:52:04Z\t\tUnknown\t\tBibo\n"
    )
    data = prepared(tmp_path, LASTFM_1K, plays__tsv=text)
    assert rows(data) == [("user_000001", "a7f7df4a", 1, 1241445250), ("user_000001", "f1b1cf71", 1, 1241478537)]


HETREC = """
name = "hetrec"
entity = "userID"
item = "artistID"
label = "weight"
[files]
events = "user_artists.dat"
items = { path = "artists.dat", key = "id", quotes = false }
title = "name"
[[item_features]]
name = "words"
column = "name"
kind = "text"
"""


def test_hetrec_lastfm_whose_items_have_another_key(tmp_path):
    data = prepared(
        tmp_path,
        HETREC,
        user_artists__dat="userID\tartistID\tweight\n2\t51\t13883\n2\t52\t11690\n3\t51\t1\n",
        artists__dat='id\tname\turl\tpictureURL\n51\tDuran "D" Duran\thttp://x\thttp://y\n52\tMorcheeba\t\t\n',
    )
    assert [r[:3] for r in rows(data)] == [("2", "51", 13883), ("2", "52", 11690), ("3", "51", 1)]
    assert cells(data, "item", "words") == [[], [], ["duran", "d"], ["morcheeba"]]


RETAIL_ROCKET = """
name = "retail-rocket"
entity = "visitorid"
item = "itemid"
label = "event"
label_values = { view = 1, addtocart = 3, transaction = 5 }
time = "timestamp"
[files]
events = "events.csv"
items = { path = "item_properties.csv", where = { property = "categoryid" }, repeated = "last" }
[[item_features]]
name = "category"
column = "value"
"""


def test_retail_rocket(tmp_path):
    data = prepared(
        tmp_path,
        RETAIL_ROCKET,
        events__csv="timestamp,visitorid,event,itemid,transactionid\n"
        "1433221332117,257597,view,355908,\n1433221332900,257597,addtocart,355908,\n1433224214164,992329,transaction,248676,4000\n",
        item_properties__csv="timestamp,itemid,property,value\n"
        "1435460400000,355908,categoryid,1338\n1441508400000,248676,888,1116713 960601 n277.200\n"
        "1439089200000,355908,categoryid,1140\n1439089200000,248676,available,0\n",
    )
    assert rows(data) == [
        ("257597", "355908", 1, 1433221332),
        ("257597", "355908", 3, 1433221332),
        ("992329", "248676", 5, 1433224214),
    ]
    assert cells(data, "item", "category") == [[], [], [], ["1140"]]
    with pytest.raises(DataError, match=r"'buy' is none of view, addtocart, transaction") as caught:
        prepared(tmp_path, RETAIL_ROCKET, events__csv="timestamp,visitorid,event,itemid\n1433221332117,1,buy,2\n")
    assert (caught.value.line, caught.value.field) == (2, "event")


JESTER = """
name = "jester"
entity = "row"
item = "joke"
label = "rating"
label_range = [-10, 10]
[files]
events = { path = "jester.csv", layout = "wide", columns = ["count"], missing = [99], row_number = "row" }
"""


@pytest.mark.parametrize("block", [1, 2**20])
def test_jester_a_row_for_each_user_and_a_column_for_each_joke(tmp_path, block):
    data = prepared(tmp_path, JESTER, block=block, jester__csv="2,-7.82,99,8.79\n1,99,99.0,-9.66\n")
    assert [(u, i, round(x, 2)) for u, i, x, _ in rows(data)] == [
        ("1", "1", -7.82),
        ("1", "3", 8.79),
        ("2", "3", -9.66),
    ]


def test_a_wide_table_with_a_header(tmp_path):
    schema = 'name = "wide"\nlabel = "stars"\n[files.events]\npath = "w.csv"\nlayout = "wide"\nignore = ["note"]\n'
    data = prepared(tmp_path, schema, w__csv="user,i1,i2,note\nu1,5,,x\nu2,,3,y\n")
    assert [r[:3] for r in rows(data)] == [("u1", "i1", 5), ("u2", "i2", 3)]
    with pytest.raises(DataError, match="'bad' is not a number") as caught:
        prepared(tmp_path, schema, w__csv="user,i1,i2,note\nu1,5,,x\nu2,,bad,y\n")
    assert caught.value.line == 3


GORSE = """
name = "gorse"
entity = "UserId"
item = "ItemId"
time = "Timestamp"
[files]
events = { path = "feedback.jsonl", where = { FeedbackType = ["star", "like"] } }
items = { path = "items.jsonl", key = "ItemId" }
entities = { path = "users.jsonl" }
[[item_features]]
name = "labels"
column = "Labels"
kind = "multi"
[[item_features]]
name = "hidden"
column = "IsHidden"
[[entity_features]]
name = "company"
column = "Labels.company"
"""


def test_gorse_export(tmp_path):
    feedback = [
        {"FeedbackType": "star", "UserId": "ann", "ItemId": "gorse:io", "Timestamp": "2021-10-13T00:00:00Z"},
        {"FeedbackType": "read", "UserId": "ann", "ItemId": "x", "Timestamp": "2021-10-13T00:00:01Z"},
        {"FeedbackType": "like", "UserId": "bob", "ItemId": "gorse:io", "Timestamp": "2021-10-14T00:00:00+02:00"},
    ]
    items = [{"ItemId": "gorse:io", "IsHidden": False, "Categories": [], "Labels": ["go", "ml"], "Comment": "a,b"}]
    users = [{"UserId": "ann", "Labels": {"company": "acme"}}, {"UserId": "bob", "Labels": None}]
    texts = {n: "\n".join(map(json.dumps, v)) for n, v in (("feedback", feedback), ("items", items), ("users", users))}
    data = prepared(tmp_path, GORSE, **{f"{n}__jsonl": text for n, text in texts.items()})
    assert [(u, i, t) for u, i, _, t in rows(data)] == [
        ("ann", "gorse:io", 1634083200),
        ("bob", "gorse:io", 1634162400),
    ]
    assert cells(data, "item", "labels") == [[], [], ["go", "ml"]]
    assert cells(data, "item", "hidden") == [[], [], ["false"]]
    assert cells(data, "entity", "company") == [["acme"], []]


GORSE_CSV = """
name = "gorse-csv"
entity = "user"
item = "item"
time = "time"
[files]
events = { path = "feedback.csv", columns = ["type", "user", "item", "time"], where = { type = "star" } }
"""


def test_gorse_feedback_without_a_header(tmp_path):
    text = "star,ann,a,2021-10-13 00:00:00 +0000\nread,ann,b,2021-10-13\nstar,bob,a,2021-10-14\n"
    data = prepared(tmp_path, GORSE_CSV, feedback__csv=text)
    assert [(u, i) for u, i, *_ in rows(data)] == [("ann", "a"), ("bob", "a")]


def test_a_condition_that_no_row_fulfils_is_named(tmp_path):
    schema = GORSE_CSV.replace('"star"', '"Star"')
    with pytest.raises(DataError, match=r"feedback\.csv: no row fulfils the condition on 'type'\. Correct `where`"):
        prepared(tmp_path, schema, feedback__csv="star,ann,a,2021-10-13\nread,ann,b,2021-10-13\n")


RECBOLE = """
name = "atomic"
entity = "user_id:token"
item = "item_id:token"
label = "rating:float"
time = "timestamp:float"
[files]
separator = "\\t"
quotes = false
events = "ml.inter"
items = "ml.item"
[[item_features]]
name = "class"
column = "class:token_seq"
kind = "multi"
separator = " "
"""


def test_recbole_atomic_files_by_a_schema_of_ones_own(tmp_path):
    data = prepared(
        tmp_path,
        RECBOLE,
        ml__inter="user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n",
        ml__item="item_id:token\tmovie_title:token_seq\tclass:token_seq\n242\tKolya\tComedy Drama\n",
    )
    assert rows(data) == [("196", "242", 3, 881250949)]
    assert cells(data, "item", "class") == [[], [], ["Comedy", "Drama"]]


RECBOLE_SEQUENCES = """
name = "sequences"
entity = "session"
item = "items"
time = "times"
[files.events]
path = "sessions.tsv"
layout = "list"
list_separator = " "
"""


def test_sessions_with_lists_of_items_and_times_in_their_cells(tmp_path):
    text = "session\titems\ttimes\ns1\ta b c\t1600000000 1600000001 1600000002\ns2\tb\t1600000003\n"
    data = prepared(tmp_path, RECBOLE_SEQUENCES, sessions__tsv=text)
    assert [(u, i, t - 1600000000) for u, i, _, t in rows(data)] == [
        ("s1", "a", 0),
        ("s1", "b", 1),
        ("s1", "c", 2),
        ("s2", "b", 3),
    ]


CITEULIKE = """
name = "citeulike"
entity = "user"
item = "article"
[files.events]
path = "users.dat"
layout = "list"
columns = ["count", "article"]
row_number = "user"
"""


@pytest.mark.parametrize("block", [5, 2**20])
def test_citeulike_the_articles_of_a_user_on_each_line(tmp_path, block):
    data = prepared(tmp_path, CITEULIKE, block=block, users__dat="2 496 1631\n1 496\n3 7 8 9\n")
    assert [r[:2] for r in rows(data)] == [
        ("1", "496"),
        ("1", "1631"),
        ("2", "496"),
        ("3", "7"),
        ("3", "8"),
        ("3", "9"),
    ]


def test_citeulike_a_user_without_articles_has_a_line_too(tmp_path):
    data = prepared(tmp_path, CITEULIKE, users__dat="\n2 496 1631\n\n3 7 8 9\n")
    assert {r[0] for r in rows(data)} == {"2", "4"}
    plain = prepared(tmp_path / "skipped", CITEULIKE + "skip_lines = 1\n", users__dat="users\n\n1 496\n")
    assert rows(plain)[0][0] == "2"


def test_lightgcn_a_user_and_its_items_on_each_line(tmp_path):
    schema = 'name = "gowalla"\n[files.events]\npath = "train.txt"\nlayout = "list"\ncolumns = ["user", "item"]\n'
    data = prepared(tmp_path, schema, train__txt="0 10 11 12\n1 10\n2\n")
    assert [r[:2] for r in rows(data)] == [("0", "10"), ("0", "11"), ("0", "12"), ("1", "10")]


def test_items_with_their_ratings_on_each_line(tmp_path):
    schema = (
        'name = "pairs"\nlabel = "rating"\n[files.events]\npath = "r.txt"\nlayout = "list"\n'
        'columns = ["user", "item"]\npair_separator = ":"\n'
    )
    data = prepared(tmp_path, schema, r__txt="ann 10:4 11:3.5\nbob 10:1\n")
    assert [r[:3] for r in rows(data)] == [("ann", "10", 4), ("ann", "11", 3.5), ("bob", "10", 1)]
    with pytest.raises(DataError, match=r"line 2, field 'rating': is empty"):
        prepared(tmp_path, schema, r__txt="ann 10:4 11:3.5\nbob 10\n")


def test_lists_in_a_row_that_do_not_go_together_say_so(tmp_path):
    schema = 'name = "lists"\nlabel = "rating"\n[files.events]\npath = "l.csv"\nlayout = "list"\nlist_separator = " "\n'
    head = "user,item,rating\nann,10 11,4 5\n"
    assert [r[:3] for r in rows(prepared(tmp_path, schema, l__csv=head))] == [("ann", "10", 4), ("ann", "11", 5)]
    with pytest.raises(DataError, match=r"line 3, field 'rating': has 3 values where 'item' has 2\. Give the list one"):
        prepared(tmp_path, schema, l__csv=head + "bob,10 11,4 5 6\n")


EUROPEAN = """
name = "laden"
entity = "Kunde"
item = "Artikel"
label = "Sterne"
label_range = [1, 5]
time = "Zeit"
time_format = "%d.%m.%Y %H:%M"
time_zone = "Europe/Berlin"
[files]
encoding = "cp1252"
decimal = ","
skip_lines = 2
comment = "#"
events = "kaeufe.csv"
[[context]]
name = "price"
column = "Preis"
kind = "numeric"
"""


def test_a_spreadsheet_from_germany(tmp_path):
    text = (
        "Verkäufe\nStand: heute\n# Filialen: alle\nKunde;Artikel;Sterne;Zeit;Preis\n"
        "Müller;Tasse;4,5;31.01.2026 12:00;1.234,50\nMüller;Krug;3;01.07.2026 12:00;9,99\n"
    )
    data = prepared(tmp_path, EUROPEAN, kaeufe__csv=text.encode("cp1252"))
    assert rows(data) == [("Müller", "Tasse", 4.5, 1769857200), ("Müller", "Krug", 3, 1782900000)]
    assert data.events.context["price"].tolist() == [1234.5, pytest.approx(9.99)]


def test_a_text_of_excel_in_utf_16(tmp_path):
    schema = 'name = "excel"\n[files]\nencoding = "utf-16"\nevents = "e.txt"\n'
    text = "user\titem\r\nZoë\t北京\r\nann\t北京\r\n"
    for block in (1, 7, 2**20):
        data = prepared(tmp_path, schema, block=block, e__txt=text.encode("utf-16"))
        assert [r[:2] for r in rows(data)] == [("Zoë", "北京"), ("ann", "北京")]
    with pytest.raises(DataError, match=r'UTF-16.*encoding = "utf-16"'):
        prepared(tmp_path, schema.replace('encoding = "utf-16"\n', ""), e__txt=text.encode("utf-16"))


def test_konect_with_comments_and_no_names(tmp_path):
    schema = (
        'name = "konect"\nlabel = "weight"\ntime = "at"\n[files]\ncomment = "%"\nseparator = " "\n'
        'events = { path = "out.x", columns = ["user", "item", "weight", "at"] }\n'
    )
    data = prepared(tmp_path, schema, out__x="% bip weighted\n% 2 1 2\n1 1 5 1600000000\n2 1 3 1600000001\n")
    assert rows(data) == [("1", "1", 5, 1600000000), ("2", "1", 3, 1600000001)]


def test_an_export_of_pandas_as_one_json_document(tmp_path):
    schema = 'name = "doc"\nlabel = "rating"\n[files]\nevents = "e.json"\n'
    frame = pd.DataFrame({"user": ["a", "b"], "item": [1, 2], "rating": [4.5, 3.0]})
    made = []
    for text in (
        frame.to_json(),
        frame.to_json(orient="records"),
        frame.to_json(orient="records", lines=True),
        json.dumps({"events": frame.to_dict("records"), "version": 3}, indent=2),
        json.dumps(frame.to_dict("list")),
    ):
        data = prepared(tmp_path / str(len(made)), schema, e__json=text)
        made.append((data.digest, rows(data)))
    assert made[0][1] == [("a", "1", 4.5, None), ("b", "2", 3, None)]
    assert len({digest for digest, _ in made}) == 1


@pytest.mark.parametrize("pack", ["gzip", "bz2", "lzma", "zip"])
def test_a_packed_file_is_known_by_its_content(tmp_path, pack):
    text = b"user,item\nu,i\n"
    if pack == "zip":
        with zipfile.ZipFile(tmp_path / "a", "w") as archive:
            archive.writestr("x.csv", text)
        data = (tmp_path / "a").read_bytes()
    else:
        data = __import__(pack).compress(text)
    made = prepared(tmp_path, 'name = "packed"\n[files]\nevents = "events.csv"\n', events__csv=data)
    assert rows(made) == [("u", "i", 1.0, None)]
    with pytest.raises(DataError, match="cut short or damaged"):
        prepared(tmp_path, 'name = "packed"\n[files]\nevents = "events.csv"\n', events__csv=data[:-8])


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (
            'name = "x"\nseparator = ";"\n[files]\nevents = "e.csv"\n',
            r"separator: there is no such key.*belongs under \[files\]",
        ),
        (
            'name = "x"\n[files]\nevents = "e.csv"\nkey = "id"\n',
            r"key: .*belongs in \[files\.events\], \[files\.entities\]",
        ),
        ('name = "x"\n[files]\nevents = "e.csv"\nlabel = "stars"\n', r"label: .*belongs at the top of the schema"),
        (
            'name = "x"\nlable = "y"\n[files]\nevents = "e.csv"\n',
            r"lable: .*did you mean label\?.*There are: name, kind",
        ),
        ('name = "x"\n[files]\nevnets = "e.csv"\n', r"evnets: .*did you mean events\?.*There are: separator"),
        ('name = "x"\n[files.events]\npath = "e.csv"\nkolumns = ["a"]\n', r"events\.kolumns: .*did you mean columns\?"),
        (
            'name = "x"\n[files]\nevents = "e.csv"\n[[item_features]]\nname = "a"\nkind_ = "numeric"\n',
            r"item_features\.0\.kind_: .*did you mean kind\?.*There are: name, kind, column",
        ),
        ('name = "x"\n[files]\nevents = { path = "e.csv", key = "id" }\n', r"key and repeated belong under"),
    ],
)
def test_an_unknown_key_says_where_it_belongs_and_what_there_is(tmp_path, schema, says):
    with pytest.raises(ConfigError, match=says):
        prepared(tmp_path, schema, e__csv="user,item\nu,i\n")
