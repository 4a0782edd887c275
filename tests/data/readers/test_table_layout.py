"""Layouts other than a row for each event: lines, lists and wide tables become rows with their own line and values."""

import numpy as np
import pandas as pd
import pytest

from recsys_meta.core.cells import LIST_MARK
from recsys_meta.data.readers.raw_tables import RowChunk, read_frame, reject_rows
from recsys_meta.data.readers.table_layout import (
    LENGTH_REMEDY,
    explode_lists,
    melt_columns,
    number_rows,
    split_line,
    split_lines,
)
from recsys_meta.data.sources.file_options import TableFile

BLOCK = 2**20


def read(reader):
    """The only chunk of a reader."""
    (chunk,) = reader(BLOCK)
    return chunk


def table(**columns):
    return read_frame("t.csv", pd.DataFrame(columns))


def texts(**columns):
    return read_frame("t.csv", pd.DataFrame(columns, dtype="str"))


def records(chunk, *columns):
    return list(chunk.frame[list(columns)].itertuples(index=False, name=None))


# Lines


@pytest.mark.parametrize(
    ("line", "separator", "head", "cells"),
    [
        ("u1,5,a,b", ",", 2, ["u1", "5", "a", "b"]),
        ("u1,,a,b", ",", 2, ["u1", "", "a", "b"]),
        (",5,a", ",", 2, ["", "5", "a"]),
        ("\t5\ta", "\t", 2, ["", "5", "a"]),
        ("u1::::a::b", "::", 2, ["u1", "", "a", "b"]),
        ("u1, 5 , a ,,b,", ",", 2, ["u1", "5", "a", "b"]),
        ("u1", ",", 2, ["u1", ""]),
        ("u1,", ",", 1, ["u1"]),
        ("", ",", 2, ["", ""]),
        ("  u1   5 a  b ", " ", 2, ["u1", "5", "a", "b"]),
        ("3 a b c", " ", 0, ["3", "a", "b", "c"]),
        ("u1", " ", 3, ["u1", "", ""]),
    ],
)
def test_a_line_keeps_the_empty_cells_of_its_head_and_drops_those_of_its_list(line, separator, head, cells):
    assert split_line(line, separator, head) == cells


def test_lines_become_columns_the_last_of_which_is_a_list():
    chunk = read(split_lines(texts(line=["u1,,a,b", "u2,7,c", ",8"]), "line", ["user", "time", "item"], ","))
    assert records(chunk, "user", "time", "item") == [
        ("u1", "", f"{LIST_MARK}a{LIST_MARK}b"),
        ("u2", "7", f"{LIST_MARK}c"),
        ("", "8", LIST_MARK),
    ]
    assert chunk.lines.tolist() == [1, 2, 3]


# Lists


def test_lists_of_one_length_go_together_a_single_value_holds_for_all_and_an_empty_one_for_none():
    reader = texts(user=["u1", "u2", "u3", "u4"], item=["a|b", "c|d", "e|f", ""], rate=["5|3", "4", "", "2"])
    chunk = read(explode_lists(reader, "item", ["rate"], "|"))
    expected = [
        ("u1", "a", "5"),
        ("u1", "b", "3"),
        ("u2", "c", "4"),
        ("u2", "d", "4"),
        ("u3", "e", ""),
        ("u3", "f", ""),
    ]
    assert records(chunk, "user", "item", "rate") == expected
    assert chunk.lines.tolist() == [1, 1, 2, 2, 3, 3] and not len(chunk.rejects)


def test_lists_of_different_lengths_in_one_row_are_rejected_once_with_what_to_do():
    reader = texts(
        user=["u1", "u2", "u3", "u4"],
        item=["a|b|c", "d", "e|f", ""],
        rate=["5|3", "4", "1|2|3", "1|2"],
        time=["7|8", "9", "1|2", ""],
    )
    chunk = read(explode_lists(reader, "item", ["rate", "time"], "|"))
    assert records(chunk, "user", "item", "rate", "time") == [("u2", "d", "4", "9")] and chunk.lines.tolist() == [2]
    assert chunk.rejects["line"].tolist() == [1, 3, 4] and set(chunk.rejects["field"]) == {"rate"}
    assert chunk.rejects["reason"].tolist() == [
        f"has {n} values where 'item' has {m}" for n, m in ((2, 3), (3, 2), (2, 0))
    ]
    assert set(chunk.rejects["remedy"]) == {LENGTH_REMEDY}
    assert chunk.rejects["row"].tolist()[0] == "u1,a|b|c,5|3,7|8"


def test_rows_that_were_rejected_before_stay_so_and_marked_lists_are_shown_as_text():
    def reader(block):
        frame = pd.DataFrame({"item": [f"{LIST_MARK}a{LIST_MARK}b"], "rate": [f"{LIST_MARK}1{LIST_MARK}2{LIST_MARK}3"]})
        yield RowChunk("t.json", frame, np.array([2]), reject_rows(np.array([1]), "", "is torn", "mend it", "x"))

    chunk = read(explode_lists(reader, "item", ["rate"], "|"))
    assert not len(chunk.frame) and not len(chunk.lines)
    assert chunk.rejects["reason"].tolist() == ["is torn", "has 3 values where 'item' has 2"]
    assert chunk.rejects["row"].tolist()[1] == "|a|b,|1|2|3"


def test_an_item_without_its_label_has_none():
    reader = texts(user=["u1"], item=["50:4|51|a:b:3|52:"])
    chunk = read(explode_lists(reader, "item", [], "|", (":", "rate")))
    assert records(chunk, "user", "item", "rate") == [
        ("u1", "50", "4"),
        ("u1", "51", ""),
        ("u1", "a:b", "3"),
        ("u1", "52", ""),
    ]


# Wide tables


def test_cells_become_rows_in_the_order_of_the_table():
    reader = texts(user=["u1", "u2", "u3"], a=["5", "", "0"], note=["x", "y", "z"], b=["99", "3", "99.0"])
    chunk = read(melt_columns(reader, ["a", "b"], "item", "rate", ["99"]))
    expected = [("u1", "x", "a", "5"), ("u2", "y", "b", "3"), ("u3", "z", "a", "0")]
    assert records(chunk, "user", "note", "item", "rate") == expected
    assert list(chunk.frame.columns) == ["user", "note", "item", "rate"]
    assert chunk.lines.tolist() == [1, 2, 3]


def test_without_a_label_zeros_are_no_events_either():
    reader = texts(user=["u1", "u2"], a=["1", "0"], b=["0.0", "yes"])
    assert records(read(melt_columns(reader, ["a", "b"], "item", None, [])), "user", "item") == [
        ("u1", "a"),
        ("u2", "b"),
    ]


@pytest.mark.parametrize("other", [[2, 3], ["2", None], [2.0, np.nan]], ids=["whole", "text", "with gaps"])
def test_typed_cells_keep_their_own_spelling(other):
    reader = table(user=["u1", "u2"], a=[1, 2**53 + 1], b=other)
    chunk = read(melt_columns(reader, ["a", "b"], "item", "rate", []))
    expected = [("u1", "a", "1"), ("u1", "b", "2"), ("u2", "a", str(2**53 + 1)), ("u2", "b", "3")]
    assert records(chunk, "user", "item", "rate") == (expected if other[1] == 3 else expected[:3])


def test_numbers_with_gaps_and_booleans_are_melted():
    reader = table(user=["u1", "u2"], a=[1.5, np.nan], b=[np.nan, 2.0])
    chunk = read(melt_columns(reader, ["a", "b"], "item", "rate", []))
    assert records(chunk, "user", "item", "rate") == [("u1", "a", "1.5"), ("u2", "b", "2")]
    reader = table(user=["u1"], a=[True], b=[False])
    assert records(read(melt_columns(reader, ["a", "b"], "item", "rate", [])), "item", "rate") == [
        ("a", "true"),
        ("b", "false"),
    ]


def test_a_wide_table_without_rows_has_no_events():
    empty = pd.DataFrame({c: pd.Series(dtype="str") for c in ("user", "a", "b")})
    chunk = read(
        melt_columns(
            lambda block: iter([RowChunk("t.csv", empty, np.zeros(0, np.int64))]), ["a", "b"], "item", "rate", []
        )
    )
    assert not len(chunk.frame) and set(chunk.frame.columns) == {"user", "item", "rate"}


# Row numbers


def chunks(*parts):
    """A reader of chunks of some lines, and of some that were rejected."""

    def reader(block):
        for lines, rejected in parts:
            frame = pd.DataFrame({"x": [""] * len(lines)}, dtype="str")
            rejects = reject_rows(np.array(rejected, np.int64), "", "is torn", "mend it", [""] * len(rejected))
            yield RowChunk("t.csv", frame, np.array(lines, np.int64), rejects)

    return reader


@pytest.mark.parametrize(
    ("first", "expected"), [(None, [["1", "3"], ["4"]]), (2, [["2", "4"], ["5"]]), (3, [["1", "3"], ["4"]])]
)
def test_rows_are_numbered_from_the_first_line(first, expected):
    reader = number_rows(chunks(([3, 5], [4]), ([6], [])), "row", first)
    assert [c.frame["row"].tolist() for c in reader(BLOCK)] == expected


def test_a_chunk_without_rows_does_not_begin_the_numbers():
    reader = number_rows(chunks(([], []), ([], [4]), ([5], [])), "row")
    assert [c.frame["row"].tolist() for c in reader(BLOCK)] == [[], [], ["2"]]


@pytest.mark.parametrize(
    ("options", "first"),
    [
        ({"columns": ["item"]}, 1),
        ({"columns": ["item"], "skip_lines": 3}, 4),
        ({"columns": ["item"], "format": "csv"}, 1),
        ({"columns": ["item"], "comment": "#"}, None),
        ({"columns": ["item"], "format": "json"}, None),
        ({}, None),
    ],
)
def test_the_first_line_is_known_where_nothing_stands_before_the_rows(options, first):
    assert TableFile(path="t.txt", **options).first_line == first
