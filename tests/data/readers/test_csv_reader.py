"""CSV as people write it: what is read, and what is said of what cannot be."""

import gzip

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_meta.core.errors import DataError
from recsys_meta.data.readers.csv_reader import CsvDialect, read_csv
from recsys_meta.data.readers.quoted_csv import read_quoted
from tests.data.source_files import GOOD, HEAD, SCHEMA, prepared, rows

WANTED = [("u1", "i1", 4.0, 100), ("u1", "i2", 5.0, 200), ("u2", "i1", 1.0, 300)]


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.rstrip("\n"),
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\r"),
        "\ufeff" + GOOD,
        GOOD.replace(",", "\t"),
        GOOD.replace(",", ";"),
        GOOD.replace(",", "|"),
        GOOD.replace("u1,i2", "\n\nu1,i2"),
        GOOD.replace("u1,i2", '"u1","i2"'),
        '"user","item","rating","time"\n' + GOOD.removeprefix(HEAD),
        GOOD.replace("u1,i2", " u1 , i2 "),
        "time,extra,rating,user,item\n100,x,4,u1,i1\n200,,5,u1,i2\n300,y,1,u2,i1\n",
    ],
    ids=[
        "plain",
        "no-end",
        "crlf",
        "cr",
        "bom",
        "tab",
        "semicolon",
        "bar",
        "blank",
        "quotes",
        "quoted-head",
        "padded",
        "order",
    ],
)
@pytest.mark.parametrize("block", [7, 2**20])
def test_layouts_of_csv_read_the_same(tmp_path, text, block):
    assert rows(prepared(tmp_path, text, block=block)) == WANTED


def test_gzip_reads_the_same(tmp_path):
    assert rows(prepared(tmp_path, GOOD, name="events.csv.gz")) == WANTED


@pytest.mark.parametrize("block", [5, 2**20])
def test_quotes_may_hold_separators_quotes_and_line_breaks(tmp_path, block):
    text = HEAD + 'u1,i1,4,100\n"u,1","the ""best"" one",5,200\n"two\nlines",i1,1,300\nu2,5" disk,2,400\n'
    found = rows(prepared(tmp_path, text, block=block))
    assert set(found) == {
        ("u1", "i1", 4.0, 100),
        ("u,1", 'the "best" one', 5.0, 200),
        ("two\nlines", "i1", 1.0, 300),
        ("u2", '5" disk', 2.0, 400),
    }


@pytest.mark.parametrize("block", [5, 2**20])
def test_lines_are_counted_through_quoted_line_breaks(tmp_path, block):
    text = HEAD + '"two\nlines",i1,1,300\n\nu2,i2,bad,400\n'
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, text, block=block)
    assert (caught.value.line, caught.value.field) == (5, "rating")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file is empty"),
        ("\n \n", "the file is empty"),
        (HEAD, "has a header but no rows"),
        (HEAD + "\n\n", "has a header but no rows"),
    ],
)
def test_a_file_without_rows(tmp_path, text, says):
    with pytest.raises(DataError, match=says) as caught:
        prepared(tmp_path, text)
    assert "events.csv" in str(caught.value)
    assert caught.value.remedy


def test_a_missing_column_is_named_with_those_there_are(tmp_path):
    with pytest.raises(DataError, match="missing") as caught:
        prepared(tmp_path, GOOD.replace("rating", "stars"))
    assert (caught.value.line, caught.value.field) == (1, "rating")
    assert "stars" in str(caught.value)


def test_a_column_that_stands_twice(tmp_path):
    with pytest.raises(DataError, match="two columns") as caught:
        prepared(tmp_path, "user,item,rating,time,item\nu1,i1,4,100,i2\n")
    assert caught.value.field == "item"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("u2;i2;3;400", "has 1 fields where 4 are expected"),
        ("u2,i2,3", "has 3 fields"),
        ("u2,i2,3,400,5", "has 5 fields"),
        ("u2\ti2,3,400", "has 3 fields"),
    ],
)
@pytest.mark.parametrize("quoted", [False, True])
def test_mixed_separators_and_ragged_lines(tmp_path, line, says, quoted):
    text = (GOOD.replace("u1,i1", '"u1",i1') if quoted else GOOD) + line + "\nu3,i3,3,500\n"
    with pytest.raises(DataError, match=says) as caught:
        prepared(tmp_path / "fail", text)
    assert caught.value.line == 5
    kept = prepared(tmp_path / "skip", text, on_error="skip")
    assert len(kept.events) == 4


@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("block", [9, 2**20])
def test_bad_utf8_names_the_line(tmp_path, quoted, block):
    text = (GOOD.replace("u1,i1", '"u1",i1') if quoted else GOOD).encode() + b"caf\xe9,i1,4,500\nu9,i9,3,600\n"
    with pytest.raises(DataError, match="UTF-8") as caught:
        prepared(tmp_path / "fail", text, block=block)
    assert caught.value.line == 5
    kept = prepared(tmp_path / "skip", text, on_error="skip", block=block)
    assert len(kept.events) == 4
    listed = (tmp_path / "skip" / "out" / "rejects.csv").read_text()
    assert "caf\\xe9" in listed


def test_utf8_that_straddles_blocks(tmp_path):
    text = HEAD + "".join(f"Zoë {i},Ærø 北京,3,{100 + i}\n" for i in range(50))
    for block in (1, 3, 64):
        data = prepared(tmp_path / str(block), text, block=block)
        assert len(data.events) == 50
        assert list(data.vocab.values["item"]) == ["Ærø 北京"]


def test_latin1_when_the_schema_says_so(tmp_path):
    text = (HEAD + "café,i1,4,500\n").encode("latin-1")
    data = prepared(tmp_path, text, files='encoding = "latin-1"\n')
    assert list(data.vocab.values["entity"]) == ["café"]


def test_utf16_and_bad_utf8_in_the_header(tmp_path):
    with pytest.raises(DataError, match="UTF-16"):
        prepared(tmp_path / "a", GOOD.encode("utf-16"))
    with pytest.raises(DataError, match="header is not valid UTF-8") as caught:
        prepared(tmp_path / "b", b"us\xe9r," + GOOD.encode())
    assert caught.value.line == 1


@pytest.mark.parametrize("cut", [30, -4])
def test_gzip_cut_short(tmp_path, cut):
    text = HEAD + "".join(f"u{i},i{i * 7 % 31},3,{i}\n" for i in range(2000))
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "events.csv.gz").write_bytes(gzip.compress(text.encode())[:cut])
    with pytest.raises(DataError, match="cut short or damaged") as caught:
        prepared(tmp_path, None, name="events.csv.gz")
    assert "events.csv.gz" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_not_gzip_at_all(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "events.csv.gz").write_text(GOOD)
    with pytest.raises(DataError, match="cut short or damaged"):
        prepared(tmp_path, None, name="events.csv.gz")


def test_a_file_or_directory_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        prepared(tmp_path / "a", None)
    with pytest.raises(DataError, match="no file matches"):
        prepared(tmp_path / "b", None, name="part-*.csv")


def test_an_unclosed_quote_is_refused_where_it_opens(tmp_path):
    text = GOOD + '"u9,i9,3,400\nu10,i10,3,500\n'
    with pytest.raises(DataError, match="cannot be split") as caught:
        prepared(tmp_path, text)
    assert caught.value.line == 5


def test_quotes_can_be_letters(tmp_path):
    schema = SCHEMA
    data = prepared(tmp_path, GOOD + '"x,i1,3,9\n', schema=schema, files="quotes = false\n")
    assert '"x' in list(data.vocab.values["entity"])


def read_parts(chunks):
    """Rows with their lines, and rejected lines with their reasons."""
    chunks = list(chunks)
    rows = [
        (n, *cells) for c in chunks for n, cells in zip(c.lines.tolist(), c.frame.itertuples(index=False), strict=True)
    ]
    return rows, sorted(r for c in chunks for r in zip(c.rejects["line"], c.rejects["reason"], strict=True))


_CELL = st.text('ab ,";é\n', max_size=4)
_QUOTED_CELL = st.builds(lambda text: '"' + text.replace('"', '""') + '"', _CELL)
_LINE = st.lists(_QUOTED_CELL | _QUOTED_CELL | st.sampled_from(["a", "", '5" x', '"b" ', '"']), max_size=3)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(_LINE.map(",".join), min_size=1, max_size=5), block=st.sampled_from([8, 2**20]))
def test_quotes_mean_to_arrow_what_they_mean_to_the_csv_module(tmp_path, lines, block):
    body = "\n".join(lines).encode() + b"\n"
    path = tmp_path / "x.csv"
    path.write_bytes(b"one,two\n" + body)
    columns = ("one", "two")
    by_lines = read_parts(read_csv(path, columns, CsvDialect(","))(block))
    assert by_lines == read_parts(read_quoted(path, iter([(body, 2, 1.0)]), columns, columns, ","))
