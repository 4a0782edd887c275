import pytest
from pydantic import ValidationError

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import FeatureField, Schema, read_schema


def write(tmp_path, text, name="schema.toml"):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


GOOD = """
name = "ads"
kind = "ad"
objective = "click"
entity = "ad"
item = "context"
label = "clicked"
label_range = [0, 1]
time = "at"

[[entity_features]]
name = "words"
kind = "text"
column = "title"

[files]
events = "events.csv"
"""


def test_a_schema_is_read_with_its_files(tmp_path):
    schema, files = read_schema(write(tmp_path, GOOD))
    assert (schema.kind, schema.objective, schema.label_range) == ("ad", "click", (0, 1))
    assert schema.entity_features[0].source == "title"
    assert FeatureField(name="age").source == "age"
    assert files == {"events": "events.csv"}


@pytest.mark.parametrize(
    ("time", "exact", "order"), [("at", True, "time"), ("at", False, "random"), (None, True, "random")]
)
def test_supports_are_drawn_by_time_only_where_times_are_exact(time, exact, order):
    assert Schema(name="x", time=time, exact_time=exact).order == order


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"item": "user"}, "different columns"),
        ({"time": "item"}, "different columns"),
        ({"entity_features": [{"name": "a"}, {"name": "a"}]}, "named twice"),
        ({"item_features": [{"name": "a"}, {"name": "a"}]}, "named twice"),
        ({"objective": "click"}, "needs a label"),
        ({"objective": "rating"}, "needs a label"),
        ({"positive": 4}, "no label column"),
        ({"label": "y", "label_range": (5, 1)}, "low < high"),
        ({"label": "y", "label_range": (float("nan"), 1)}, "finite"),
        ({"label": "y", "label_range": (0, float("inf"))}, "finite"),
        ({"label": "y", "positive": float("nan")}, "finite"),
        ({"name": "a/../b"}, "pattern"),
        ({"name": ""}, "at least 1"),
        ({"kind": "User"}, "pattern"),
        ({"objective": "clicks"}, "ranking"),
        ({"min_query": 0}, "greater than or equal to 1"),
        ({"colour": "red"}, "not permitted"),
        ({"entity_features": [{"name": "a.b"}]}, "pattern"),
        ({"entity_features": [{"name": "a", "min_count": 0}]}, "greater"),
    ],
)
def test_contradictions_are_refused_in_words(change, says):
    with pytest.raises(ValidationError, match=says):
        Schema.model_validate({"name": "x", **change})


def test_both_sides_may_have_a_feature_of_one_name():
    both = ({"name": "a"},)
    assert Schema.model_validate({"name": "x", "entity_features": both, "item_features": both})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = ", "not valid TOML"),
        (b"name = '\xff'", "not valid TOML"),
        ('name = "x"\nfiles = "events.csv"', "files: must be a table"),
        ('name = "x"\ncolour = 1\n[[entity_features]]\nname = "a"\nkinds = 2', r"entity_features\.0\.kinds.*; colour"),
    ],
)
def test_a_wrong_file_is_named_with_every_wrong_key(tmp_path, text, says):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=says) as caught:
        read_schema(path)
    assert str(path) in str(caught.value)
    assert "pydantic" not in str(caught.value) and "Value error" not in str(caught.value)


def test_a_threshold_above_all_labels_is_refused():
    with pytest.raises(ValidationError, match="no row would be a positive"):
        Schema(name="shop", label="stars", label_range=(1, 5), positive=9)
    assert Schema(name="shop", label="stars", label_range=(1, 5), positive=5).positive == 5


def test_a_missing_file_and_a_folder_are_errors_of_configuration(tmp_path):
    with pytest.raises(ConfigError, match="no such schema file"):
        read_schema(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_schema(tmp_path)


def test_a_schema_survives_json():
    schema = Schema(name="x", label="y", label_range=(1, 5), entity_features=(FeatureField(name="a", kind="multi"),))
    assert Schema.model_validate(schema.model_dump(mode="json")) == schema


@pytest.mark.parametrize(
    ("settings", "disliked", "liked"),
    [
        ({"label": "stars", "label_range": (1, 5), "positive": 4}, (0, 1, 3.9), (4, 5)),
        ({"label": "stars", "label_range": (1, 5)}, (0, 1, 2.5), (3, 5)),
        ({"label": "stars", "label_range": (0, 10)}, (0, 4), (5, 10)),
        ({"label": "thumb", "label_range": (-1, 1)}, (-1, 0), (1,)),
        ({"label": "thumb", "label_range": (-1, 1), "positive": 0}, (-1,), (0, 1)),
        ({"label": "plays"}, (-1, 0), (0.1, 7)),
        ({}, (0,), (1,)),
        ({"label": "stars", "label_range": (1, 5), "objective": "rating"}, (), (0, 1, 5)),
    ],
)
def test_labels_of_feedback_are_likes_or_dislikes(settings, disliked, liked):
    schema = Schema(name="x", **settings)
    assert all(schema.is_disliked(label) for label in disliked)
    assert not any(schema.is_disliked(label) for label in liked)
