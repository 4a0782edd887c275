"""Types of the fields of bodies: every text and list is bounded, every number finite."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)

from recsys_meta.core.limits import ID_LENGTH, LABEL_LENGTH, NAME_LENGTH
from recsys_meta.core.time_parsing import names_zone, parse_zoned_time

MOST_FEATURES = 200
"""Features of an entity or an item."""

MOST_CONTEXT = 50
"""Fields of the context of a row."""

ServedBy = Literal["adapted", "cache", "prior", "popular"]
"""Kinds of answer: a state adapted now, one of a cache, the prior of a newcomer without events, plain popularity."""


def one_error(message: str) -> WrapValidator:
    """Return a validator that puts one message in place of every error of a type.

    Pydantic reports one error for each member of a union, at pointers that the caller's document does not have.
    """

    def validate(value: object, handler: ValidatorFunctionWrapHandler) -> object:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(message) from None

    return WrapValidator(validate)


def _not_dots(value: str) -> str:
    # Clients shorten paths that end in dots, so such a thing could be stored but never be read.
    if value in (".", ".."):
        raise ValueError("an id of dots alone cannot be part of a path")
    return value


def _not_similar(value: str) -> str:
    if value.endswith("/similar"):
        raise ValueError("an id that ends with /similar is the path of another call")
    return value


def _read_time(value: Any) -> Any:
    # Pydantic's own reading has another rule for the units of numbers.
    if isinstance(value, bool) or not isinstance(value, str | int | float | datetime):
        return value
    if isinstance(value, str) and not names_zone(value):
        return value  # it may be written as in the data of the model, which is not known here
    return parse_zoned_time(value)


def _read_moment(value: Any) -> Any:
    # A parameter of a url is a text, also where it is a number.
    if not isinstance(value, str):
        return value
    try:
        number = float(value)
    except ValueError:
        return parse_zoned_time(value)
    return parse_zoned_time(number)


# Anything that can be seen: no control characters, no line or paragraph separators.
_VISIBLE = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]+$"
Text = Annotated[str, Field(min_length=1, max_length=ID_LENGTH, pattern=_VISIBLE)]
# As the readers of files have it: blanks around an item are no part of it.
ItemId = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=ID_LENGTH, pattern=_VISIBLE)]
ItemKey = Annotated[ItemId, AfterValidator(_not_dots), AfterValidator(_not_similar)]
EntityId = Annotated[Text, AfterValidator(_not_dots)]
Kind = Annotated[str, Field(min_length=1, max_length=NAME_LENGTH, pattern=r"^[a-z][a-z0-9_\-]*$")]
ModelName = Annotated[str, Field(min_length=1, max_length=ID_LENGTH, pattern=r"^[A-Za-z0-9_.\-]+$")]
ModelRef = Annotated[str, Field(min_length=1, max_length=2 * ID_LENGTH, pattern=r"^[A-Za-z0-9_.\-]+(@[A-Za-z0-9]+)?$")]
VersionRef = Annotated[str, Field(min_length=1, max_length=ID_LENGTH, pattern=r"^[A-Za-z0-9]+$")]
ArmLabel = Annotated[str, Field(min_length=1, max_length=LABEL_LENGTH, pattern=r"^[A-Za-z0-9_.\-]+$")]
SplitSalt = Annotated[str, Field(min_length=1, max_length=NAME_LENGTH, pattern=r"^[A-Za-z0-9_.\-]+$")]

# A whole number beyond 64 bits is read as a float: what JSON writers can write again.
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Cell = Annotated[str, Field(max_length=1000)] | bool | Whole | Annotated[float, Field(allow_inf_nan=False)] | None
Feature = Annotated[
    Cell | Annotated[list[Cell], Field(max_length=100, fail_fast=True)],
    one_error(
        "a feature is a text of at most 1000 characters, a finite number, true, false, null, "
        "or a list of at most 100 of these"
    ),
]
Features = Annotated[
    dict[Annotated[str, Field(max_length=ID_LENGTH)], Feature],
    Field(max_length=MOST_FEATURES, description="raw feature values by name; lists for features of several values"),
]
ContextValue = Annotated[
    Cell, one_error("a context value is a text of at most 1000 characters, a finite number, true, false or null")
]
Context = Annotated[
    dict[Annotated[str, Field(max_length=ID_LENGTH)], ContextValue],
    Field(
        max_length=MOST_CONTEXT,
        description="what the row was like, flat: fields of the model's context; where every entity has items of its "
        "own also `actor` and features of the item (lat, lon, category ...)",
    ),
]
Values = Annotated[list[Annotated[str, Field(min_length=1, max_length=1000)]], Field(max_length=100, fail_fast=True)]

Latitude = Annotated[float, Field(strict=True, ge=-90, le=90, description="degrees")]
Longitude = Annotated[float, Field(strict=True, ge=-180, le=180, description="degrees")]
Time = Annotated[
    Annotated[float, Field(strict=True)] | Annotated[str, Field(min_length=1, max_length=100, pattern=_VISIBLE)],
    one_error("a time is a number of seconds since 1970 UTC, or a text of 1 to 100 characters"),
    BeforeValidator(_read_time),
    WithJsonSchema(
        {
            "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "format": "date-time"}],
            "description": "seconds since 1970 UTC, ISO 8601 with a time zone, or a text as in the data of the model",
        }
    ),
]
TimeText = Annotated[
    Annotated[float, Field(strict=True)],
    BeforeValidator(_read_moment),
    WithJsonSchema(
        {
            "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "format": "date-time"}],
            "description": "seconds since 1970 UTC, or ISO 8601 with a time zone",
        }
    ),
]
"""A time in a URL, where numbers are texts."""

Label = Annotated[float, Field(strict=True, allow_inf_nan=False)]
EventLabel = Annotated[
    Label | Annotated[str, Field(min_length=1, max_length=100, pattern=_VISIBLE)],
    one_error("a label is a finite number, true or false, or a word of the model's data"),
    BeforeValidator(lambda value: float(value) if isinstance(value, bool) else value),
    WithJsonSchema(
        {
            "anyOf": [{"type": "number"}, {"type": "boolean"}, {"type": "string"}],
            "description": "true is 1, false is 0; a text is a word that stands for a label in the data of the model",
        }
    ),
]
Flag = Annotated[bool, Field(strict=True)]
