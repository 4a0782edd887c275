"""The files of a schema, where they do not lie beside it."""

import pytest

from recsys_meta.core.errors import ConfigError, DataError
from recsys_meta.data import prepare_custom

SCHEMA = 'name = "shop"\nentity = "user"\nitem = "item"\n[files]\nevents = "views.csv"\n'


@pytest.fixture
def schema(tmp_path):
    (tmp_path / "schemas").mkdir()
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "views.csv").write_text("user,item\na,x\na,y\nb,x\n")
    path = tmp_path / "schemas" / "shop.toml"
    path.write_text(SCHEMA)
    return path


def test_a_source_is_where_the_files_of_a_schema_are_looked_for(schema, tmp_path):
    data = prepare_custom(schema, tmp_path / "out", source=tmp_path / "raw")
    assert (len(data.events), data.events.entity_count) == (3, 2)


def test_without_a_source_the_files_lie_beside_the_schema(schema, tmp_path):
    with pytest.raises(DataError, match="schemas"):
        prepare_custom(schema, tmp_path / "out")


def test_an_inter_file_has_its_files_beside_it(tmp_path):
    path = tmp_path / "shop.inter"
    path.write_text("user_id:token\titem_id:token\na\tx\n")
    with pytest.raises(ConfigError, match="--source"):
        prepare_custom(path, tmp_path / "out", source=tmp_path)
