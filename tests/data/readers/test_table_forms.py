"""Texts in any encoding and packing: read where they say what they are, else refused with what to do."""

import gzip
import io
import json
import zipfile

import pytest

from recsys_meta.core.errors import DataError
from recsys_meta.data.readers.byte_stream import detect_encoding
from recsys_meta.data.readers.table_reader import detect_form, read_layout, read_table

ROWS = [("ann", "1"), ("Zoë", "2"), ("bob", "3")]
CSV = "user,item\n" + "".join(f"{u},{i}\n" for u, i in ROWS)
JSON = "".join(json.dumps({"user": u, "item": i}, ensure_ascii=False) + "\n" for u, i in ROWS)
WIDE = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]


def cells(path, form, block):
    chunks = list(read_table(path, ("user", "item"), form)(block))
    return [tuple(row) for c in chunks for row in c.frame.itertuples(index=False)], [n for c in chunks for n in c.lines]


@pytest.mark.parametrize("block", [7, 2**20])
@pytest.mark.parametrize("encoding", [*WIDE, "utf-8-sig", "cp1252"])
@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_the_encoding_of_a_text_is_told_by_its_bytes(tmp_path, name, encoding, block):
    path = tmp_path / name
    path.write_bytes((CSV if name == "x.csv" else JSON).encode(encoding))
    rows, lines = cells(path, detect_form(path), block)
    assert rows == ROWS
    assert lines == [2, 3, 4] if name == "x.csv" else [1, 2, 3]
    assert detect_encoding(path) == encoding.removesuffix("-sig")[: 6 if encoding == "utf-16" else None]


@pytest.mark.parametrize("encoding", WIDE)
@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_a_wide_text_that_is_taken_for_utf8_says_what_it_is(tmp_path, name, encoding):
    path = tmp_path / name
    path.write_bytes((CSV if name == "x.csv" else JSON).encode(encoding))
    with pytest.raises(DataError, match=rf"is {encoding[:6].upper()}.*encoding = \"{encoding}\""):
        read_layout(path)


def test_json_that_is_not_utf8_says_so(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(JSON.encode("latin-1"))
    (chunk,) = read_table(path, ("user", "item"))(2**20)
    assert [(r.line, "not valid UTF-8" in r.reason) for r in chunk.rejects.itertuples()] == [(2, True)]


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (gzip.compress(gzip.compress(CSV.encode())), "packed twice"),
        (zipped(a=gzip.compress(CSV.encode())), "packed twice"),
        (zipped(), "holds no file"),
        (zipped(**{"[Content_Types].xml": "<x/>", "xl/workbook.xml": "<x/>"}), "Office document.*as CSV"),
    ],
    ids=["gzip in gzip", "gzip in zip", "empty", "workbook"],
)
def test_packings_that_hold_no_table(tmp_path, content, says):
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_layout(path)


def test_a_file_without_a_header_may_be_meant(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("ann,1\nbob,2\n")
    with pytest.raises(DataError, match=r'missing.*columns = \["..."\]'):
        cells(path, detect_form(path), 2**20)


@pytest.mark.parametrize("inner", [["a"], {"a": 1}])
def test_lists_within_lists_are_no_text(tmp_path, inner):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"user": "u", "item": ["i", inner]}) + "\n")
    with pytest.raises(DataError, match="lists hold what cannot be read"):
        list(read_table(path, ("user", "item"), detect_form(path), {"item": "|"})(2**20))
