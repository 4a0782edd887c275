"""The schema of a data set: the meaning of each column, and the objective.

User, ad and city tasks differ here and nowhere else.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self
from zoneinfo import available_timezones

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.time_parsing import TIME_UNITS

Objective = Literal["ranking", "rating", "click", "choice"]
Order = Literal["time", "random"]


class FeatureField(BaseModel):
    """One feature column.

    `categorical` holds one value, `multi` several joined by `separator`, `text` is split into lower-case
    word tokens, `numeric` is a number. Values seen fewer than `min_count` times become "unknown".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_\-]+$")
    kind: Literal["categorical", "multi", "text", "numeric"] = "categorical"
    column: str | None = None
    separator: str = Field(default="|", min_length=1)
    min_count: int = Field(default=1, ge=1)
    max_values: int = Field(default=32, ge=1, description="values kept of one cell of a multi or text field")

    @property
    def source(self) -> str:
        """Name of the column that the feature is read from."""
        return self.column or self.name


LATITUDE, LONGITUDE = "lat", "lon"
"""Names of the numeric features of items, in degrees, that distances are computed from."""

ARRIVAL = FeatureField(name="arrival", kind="numeric")
"""The feature that `Schema.arrival` adds, in seconds since 1970 UTC."""


_LATER_FIELDS = ("label_values", "time_format", "time_zone", "part")
"""Fields of a schema that came after bundles had been written."""


class Schema(BaseModel):
    """Meaning of the columns of an interaction table, the objective, and the default evaluation.

    `entity` is the column of the task (user, ad or city), `item` that of the items it interacts with. `label_range`
    bounds valid labels, both ends included. `label_values` are the labels that words stand for ({view = 1, cart = 3}).
    Rows with a label of at least `positive` are the positives of a ranking; None: every row is one. `exact_time` is
    False where times are rough or partly missing: supports are then drawn at random. `time_format` is the form of times
    that are neither ISO 8601 nor numbers since 1970, as `strptime` has it ("%d/%m/%Y %H:%M"), or the unit of numbers
    (s, ms, us, ns); `time_zone` the zone of times that name none, such as "Europe/Berlin" (UTC by default). With
    `arrival` the time of an entity's first event becomes its feature "arrival", for data that drift. `min_query` is the
    number of query rows that an entity needs to count at a point of the cold-start curve.

    `context` are categorical or numeric columns that describe a row beside entity, item and label. `actor` is the
    column of the person who acts, where that is neither entity nor item. `group` is the column of the list in which
    rows were shown together. `part` names a categorical context field that holds a published division of the rows for
    new items (see `episodes.item_split`). `home` is a categorical feature of items whose value is an entity: each
    entity then has a catalogue of its own, and the items of an entity outside the training data are known by their
    features only.

    The objective "choice" predicts the next item that an actor takes from the entity's own catalogue, given the items
    that the actor took before; it needs `actor`, `home` and `time`.

    Defaults of the evaluation: `shots`; `query_from`, the first row that may belong to the query, so that the query is
    the same for every number of shots; `least_rows`, the rows that an entity needs to be used at all; `past_rows`, the
    number of rows from which on an entity belongs to training and below which it is a new entity (None: entities are
    split at random or by time); `together`, a categorical feature of entities: those with equal values stay in the same
    part of a split; `folds`, the number of folds of a cross-validation over entities (over values of `together` where
    that is set).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_.\-]+$")
    kind: str = Field(default="user", min_length=1, pattern=r"^[a-z][a-z0-9_\-]*$")
    objective: Objective = "ranking"
    entity: str = "user"
    item: str = "item"
    label: str | None = None
    label_range: tuple[float, float] | None = None
    label_values: Mapping[str, float] = Field(default_factory=dict)
    positive: float | None = None
    time: str | None = None
    exact_time: bool = True
    time_format: str | None = Field(default=None, min_length=1)
    time_zone: str | None = Field(default=None, min_length=1)
    arrival: bool = False
    min_query: int = Field(default=1, ge=1)
    entity_features: tuple[FeatureField, ...] = ()
    item_features: tuple[FeatureField, ...] = ()
    context: tuple[FeatureField, ...] = ()
    actor: str | None = None
    group: str | None = None
    part: str | None = None
    home: str | None = None
    shots: tuple[int, ...] = (0, 1, 3, 5, 10, 20)
    query_from: int = Field(default=0, ge=0)
    least_rows: int = Field(default=1, ge=1)
    past_rows: int | None = Field(default=None, ge=1)
    together: str | None = None
    folds: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        columns = [c for c in (self.entity, self.item, self.label, self.time) if c]
        if len(set(columns)) != len(columns):
            raise ValueError(f"entity, item, label and time must be different columns, got {columns}")
        self._check_times()
        self._check_rows()
        self._check_evaluation()
        for fields in (self.entity_features, self.item_features, self.context):
            names = [f.name for f in fields]
            if len(set(names)) != len(names):
                raise ValueError(f"a feature is named twice: {sorted(names)}")
        if self.arrival and (self.time is None or any(f.name == ARRIVAL.name for f in self.entity_features)):
            raise ValueError("arrival needs a time column, and no other entity feature may be named 'arrival'")
        if self.objective in ("rating", "click") and self.label is None:
            raise ValueError(f"objective '{self.objective}' needs a label column")
        if self.label_values and self.label is None:
            raise ValueError("label_values are labels by their words, but there is no label column")
        if self.positive is not None and self.label is None:
            raise ValueError("positive is a threshold on labels, but there is no label column")
        if self.label_range and self.label_range[0] >= self.label_range[1]:
            raise ValueError("label_range must be (low, high) with low < high")
        if self.positive is not None and self.label_range and self.positive > self.label_range[1]:
            raise ValueError(f"positive = {self.positive:g} is above label_range, so that no row would be a positive")
        return self

    def _check_times(self) -> None:
        if self.time is None and (self.time_format or self.time_zone):
            raise ValueError("time_format and time_zone say how to read the time column, but there is none")
        if self.time_format and self.time_format not in TIME_UNITS and "%" not in self.time_format:
            units = ", ".join(TIME_UNITS)
            raise ValueError(
                f"time_format '{self.time_format}' is neither a form such as %d/%m/%Y %H:%M nor one of {units}"
            )
        if self.time_zone is not None and self.time_zone not in available_timezones():
            raise ValueError(f"time_zone '{self.time_zone}' is not known; give a name such as Europe/Berlin or UTC")

    def _check_rows(self) -> None:
        if any(f.kind not in ("categorical", "numeric") for f in self.context):
            raise ValueError("a context field is categorical or numeric")
        if self.part is not None and not any(f.name == self.part and f.kind == "categorical" for f in self.context):
            raise ValueError(f"part '{self.part}' must be a categorical context field")
        if self.home is not None and not any(
            f.name == self.home and f.kind == "categorical" for f in self.item_features
        ):
            raise ValueError(f"home '{self.home}' must be a categorical item feature, whose values are entities")
        if self.objective == "choice" and not (self.actor and self.home and self.time):
            raise ValueError("objective 'choice' needs actor, home and time: who acts, whose items they are, and when")
        if self.objective != "choice" and self.home is not None:
            raise ValueError("home is for the objective 'choice'")

    def _check_evaluation(self) -> None:
        if not self.shots or min(self.shots) < 0 or list(self.shots) != sorted(set(self.shots)):
            raise ValueError(f"shots must be distinct ascending numbers >= 0, got {list(self.shots)}")
        if self.together is not None and not any(
            f.name == self.together and f.kind == "categorical" for f in self.entity_features
        ):
            raise ValueError(f"together '{self.together}' must be a categorical entity feature")
        if self.folds == 1:
            raise ValueError("folds must be 0 (none) or at least 2")
        if self.past_rows is not None and (self.together is not None or self.folds > 0):
            raise ValueError("past_rows says who is new, so together and folds cannot; give one")

    @model_serializer(mode="wrap")
    def _leave_out_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out later fields that are not set: bundles of earlier versions keep their bytes and their version."""
        values: dict[str, Any] = handler(self)
        return {name: v for name, v in values.items() if name not in _LATER_FIELDS or getattr(self, name)}

    @property
    def liked_from(self) -> float | None:
        """Least label of feedback that says an item of a ranking was liked: `positive`, or the middle of `label_range`
        where every row of the data is a positive. None if labels have no known scale, and for other objectives."""
        if self.objective != "ranking" or self.positive is not None:
            return self.positive if self.objective == "ranking" else None
        return None if self.label_range is None else sum(self.label_range) / 2

    def is_disliked(self, label: float) -> bool:
        """Return True for a label of feedback that says "not for me": one below `liked_from`, and 0 unless the schema
        says that it is a positive. Only rankings have dislikes."""
        if self.objective != "ranking":
            return False
        if self.positive is None and label == 0:
            return True
        return label < (0.0 if self.liked_from is None else self.liked_from)

    def require_objective(self, objective: Objective, predictor: str) -> None:
        """Raise ConfigError unless this objective is the one that a predictor, by its name, is for."""
        if self.objective != objective:
            raise ConfigError(f"'{predictor}' is for objective '{objective}', but '{self.name}' has '{self.objective}'")

    @property
    def event_columns(self) -> tuple[str, ...]:
        """Columns to read from the table of events, each once."""
        columns = (self.entity, self.item, self.label, self.time, self.actor, self.group)
        # One column may have two meanings: actor and item are the same where the items are people.
        return tuple(dict.fromkeys(c for c in (*columns, *(f.source for f in self.context)) if c))

    @property
    def all_entity_features(self) -> tuple[FeatureField, ...]:
        """Entity features of the data set: those of the feature table, and "arrival" where the schema adds it."""
        return (*self.entity_features, ARRIVAL) if self.arrival else self.entity_features

    @property
    def order(self) -> Order:
        """Order in which support rows are taken: by time where times are exact, else at random."""
        return "time" if self.time and self.exact_time else "random"


def read_schema(path: Path, places: Mapping[str, str] | None = None) -> tuple[Schema, dict[str, Any]]:
    """Read a TOML schema; return it with its optional table [files], which is not checked here.

    Raises ConfigError, which names the file and every wrong key; `places` says where keys of other tables belong.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such schema file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    files = raw.pop("files", {})
    if not isinstance(files, dict):
        raise ConfigError(f'{path}: files: must be a table, for example [files] and events = "events.csv"')
    try:
        return Schema.model_validate(raw), files
    except ValidationError as error:
        keys = {"": tuple(Schema.model_fields)} | dict.fromkeys(
            ("entity_features", "item_features", "context"), tuple(FeatureField.model_fields)
        )
        raise ConfigError(f"{path}: {explain_errors(error, keys, places)}") from None
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deeply") from None


MOST_MESSAGES = 20
"""Errors that `explain_errors` names."""


def explain_errors(
    error: ValidationError, keys: Mapping[str, Sequence[str]] | None = None, places: Mapping[str, str] | None = None
) -> str:
    """Return the first errors that pydantic found as one text: "key: message; key: message".

    `keys` are the keys that there are in a table, by its name ("" for the uppermost one), and `places` where a key of
    another table belongs: both are named where a key is unknown.
    """
    messages = []
    for e in error.errors(include_url=False, include_context=False)[:MOST_MESSAGES]:
        location = ".".join(str(p) for p in e["loc"]) or "value"
        message = e["msg"].removeprefix("Value error, ")
        if e["type"] == "extra_forbidden" and keys is not None:
            table = str(e["loc"][0]) if len(e["loc"]) > 1 else ""
            message = explain_unknown_key(str(e["loc"][-1]), keys.get(table, ()), places)
        messages.append(f"{location}: {message}")
    return "; ".join(messages)


def explain_unknown_key(key: str, keys: Sequence[str], places: Mapping[str, str] | None = None) -> str:
    """Return what to do about a key that is not among those there are; see `explain_errors`."""
    if places and key in places and key not in keys:
        hint = f"; it belongs {places[key]}."
    elif similar := get_close_matches(key, keys, 1):
        hint = f"; did you mean {similar[0]}?"
    else:
        hint = "."
    return f"there is no such key here{hint}" + (f" There are: {', '.join(keys)}" if keys else "")
