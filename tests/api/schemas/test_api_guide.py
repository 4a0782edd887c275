"""docs/api.md tells the truth: its calls are those there are, its requests can be read, no field goes unmentioned."""

import json
import re
from pathlib import Path

import pytest

from api.app import build_app
from recsys_meta.data.simulators.schemas import CITIES, USER_ATTRIBUTES, USERS
from recsys_meta.wire.requests import (
    Event,
    EventBatch,
    Filter,
    QueryContextInput,
    RecommendationRequest,
    ScoreRequest,
    SupportEvent,
)
from recsys_meta.wire.responses import RowScore, ScoreExplanation
from tests.api.servers import settings

PAGE = (Path(__file__).parents[3] / "docs" / "api.md").read_text(encoding="utf-8")
BODIES = {
    "/v1/recommendations": RecommendationRequest,
    "/v1/score": ScoreRequest,
    "/v1/events": EventBatch,
}
EXAMPLES = re.findall(r"curl -s localhost:8000(/v1/\S+) .*?-d '(\{.*?\})'", PAGE, re.S)


def documented_calls():
    """Method and path of every call of the page's table."""
    for row in re.findall(r"^\| (`(?:GET|POST|PUT|PATCH|DELETE) /.*?) \|", PAGE, re.M):
        method, before = "", ""
        for code in re.findall(r"`([^`]+)`", row):
            verb, _, path = code.partition(" ") if " " in code else (method, "", code)
            method = verb
            # "/rollback" after "/v1/models/{name}/promote" is short for its sister.
            path = path if path.startswith(("/v1", "/livez", "/readyz", "/metrics")) else before + path
            before = path.rsplit("/", 1)[0]
            yield method.lower(), path


def test_the_calls_are_those_there_are(tmp_path):
    document = build_app(settings(tmp_path, f"sqlite:///{tmp_path}/x.db")).openapi()
    real = {(method, path) for path, operations in document["paths"].items() for method in operations}
    assert real == set(documented_calls())


@pytest.mark.parametrize(("path", "body"), EXAMPLES)
def test_the_requests_can_be_read(path, body):
    request, given = BODIES[path].model_validate_json(body), json.loads(body)
    assert request.model_fields_set == set(given)
    if isinstance(request, EventBatch):  # its events are read one by one
        events = [Event.model_validate(event) for event in request.events]
        assert [event.model_fields_set for event in events] == [set(event) for event in given["events"]]
        assert events


def test_there_are_examples_of_every_kind():
    kinds = [json.loads(body).get("model") for _, body in EXAMPLES]
    assert {None, "ads", "flagship-simulated-cities"} <= set(kinds)


def test_filters_are_such_as_models_of_the_quickstart_have():
    """A rule of numbers is of a feature that holds numbers, one of values of one that does not."""
    kinds = {f.name: f.kind for schema in (USERS, CITIES) for f in schema.item_features}
    filters = [json.loads(line)["filters"] for line in re.findall(r'^\{"filters": .*$', PAGE, re.M)]
    assert len(filters) > 1
    for name, rule in [pair for one in filters for pair in one.items()]:
        condition = Filter.model_validate(rule)
        of_numbers = condition.min is not None or condition.max is not None
        assert of_numbers == (kinds[name] == "numeric"), name


def test_features_are_such_as_models_of_the_quickstart_have():
    examples = [json.loads(one) for one in re.findall(r'"features": (\{"(?:age|gender)".*?\})', PAGE)]
    assert examples
    for features in examples:
        assert all(value in dict(USER_ATTRIBUTES)[name] for name, value in features.items())


@pytest.mark.parametrize(
    "model",
    [
        RecommendationRequest,
        ScoreRequest,
        QueryContextInput,
        Filter,
        SupportEvent,
        ScoreExplanation,
        RowScore,
    ],
    ids=lambda m: m.__name__,
)
def test_no_field_goes_unmentioned(model):
    missing = [name for name in model.model_fields if not re.search(rf'[`"]{name}\b', PAGE)]
    assert not missing
