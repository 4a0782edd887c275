"""citeulike-a: tags, citations by the names of articles, and the published division."""

import pytest

from recsys_meta.core.errors import DataError
from recsys_meta.data import prepare_named
from recsys_meta.episodes.item_split import COLD_TEST, COLD_VALID, TRAIN, item_split
from tests.data.source_files import cells

PAIRS = "user,item,part\n0,0,train\n0,2,cold_val\n1,0,train\n1,1,warm_test\n1,3,cold_test\n0,1,train\n"
ARTICLES = "item,tags,cites\n0,t1|t2,c3\n1,,c0|c2\n2,t2,\n3,t1,\n"


def test_articles_and_their_division(tmp_path):
    (tmp_path / "interactions.csv").write_text(PAIRS)
    (tmp_path / "items.csv").write_text(ARTICLES)
    data = prepare_named("citeulike-a", tmp_path / "out", tmp_path)
    assert cells(data, "item", "tags") == [[], [], ["t1", "t2"], [], ["t2"], ["t1"]]
    assert cells(data, "item", "cites") == [[], [], ["3"], ["0", "2"], [], []]
    split = item_split(data, seed=0)
    assert [split.items(p).tolist() for p in (TRAIN, COLD_VALID, COLD_TEST)] == [[2, 3], [4], [5]]


def test_what_is_missing_is_named(tmp_path):
    (tmp_path / "interactions.csv").write_text(PAIRS)
    with pytest.raises(DataError, match=r"items\.csv"):
        prepare_named("citeulike-a", tmp_path / "out", tmp_path)
