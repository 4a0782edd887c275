"""RecBole's atomic files."""

import pytest

from recsys_meta.core.errors import DataError
from recsys_meta.data import prepare_custom
from tests.data.source_files import cells, rows

INTER = (
    "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu1\ti1\t4\t200.0\nu1\ti2\t5\t100\nu2\ti1\t1\t300\n"
)
USER = "user_id:token\tage:float\tjob:token\tvector:float_seq\nu1\t30\tclerk\t0.1 0.2\nu2\t\t\t\n"
ITEM = 'item_id:token\tmovie_title:token_seq\tclass:token_seq\ni1\t"Heat\tDrama Crime\ni2\tThe One\tDrama\n'


def put(folder, inter=INTER, user=USER, item=ITEM):
    folder.mkdir(exist_ok=True)
    for ending, text in (("inter", inter), ("user", user), ("item", item)):
        if text is not None:
            (folder / f"tiny.{ending}").write_text(text)
    return folder


def test_events_and_features(tmp_path):
    data = prepare_custom(put(tmp_path / "tiny"), tmp_path / "out")
    assert rows(data) == [("u1", "i2", 5.0, 100), ("u1", "i1", 4.0, 200), ("u2", "i1", 1.0, 300)]
    assert (data.schema.name, data.schema.objective, data.schema.label) == ("tiny", "ranking", "rating")
    assert data.entities["age"].values[0] == 30
    assert cells(data, "entity", "job") == [["clerk"], []]
    assert cells(data, "item", "class") == [[], [], ["Drama", "Crime"], ["Drama"]]
    assert data.about["titles"] == {"i1": '"Heat', "i2": "The One"}, "a quote is a letter"
    assert data.about["unused_columns"] == ["vector"], "left out, and said so"


def test_events_alone_by_file_name(tmp_path):
    put(tmp_path, user=None, item=None)
    data = prepare_custom(tmp_path / "tiny.inter", tmp_path / "out")
    assert len(data.events) == 3
    assert data.items == {}


def test_a_label_column_makes_clicks(tmp_path):
    text = "ad:token\tuser:token\tlabel:float\nx\tu\t1\nx\tv\t0\n"
    data = prepare_custom(put(tmp_path, text, None, None), tmp_path / "out")
    assert (data.schema.objective, data.schema.entity, data.schema.item) == ("click", "ad", "user")
    assert rows(data) == [("x", "u", 1.0, None), ("x", "v", 0.0, None)]


@pytest.mark.parametrize(
    ("inter", "says", "line"),
    [
        (INTER.replace("rating:float", "rating"), "the type '' is not one of", 1),
        (INTER.replace("rating:float", "rating:int"), "the type 'int' is not one of", 1),
        (INTER.replace("u2\ti1", "u2 i1"), "has 3 fields where 4", 4),
        (INTER.replace("\t1\t300", "\tbad\t300"), "'bad' is not a number", 4),
        ("user_id:token\n1\n", "fewer than two columns", 1),
        ("", "the file is empty", None),
    ],
)
def test_wrong_files(tmp_path, inter, says, line):
    with pytest.raises(DataError, match=says) as caught:
        prepare_custom(put(tmp_path, inter, None, None), tmp_path / "out")
    assert caught.value.line == line


def test_a_directory_with_none_or_two(tmp_path):
    with pytest.raises(DataError, match=r"holds 0 \.inter files"):
        prepare_custom(tmp_path, tmp_path / "out")
    put(tmp_path)
    (tmp_path / "more.inter").write_text(INTER)
    with pytest.raises(DataError, match=r"holds 2 \.inter files"):
        prepare_custom(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="no such file"):
        prepare_custom(tmp_path / "nope.inter", tmp_path / "out")
