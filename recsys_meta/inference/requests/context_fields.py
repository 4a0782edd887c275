"""The fields of a flat context as callers give it: fields of the row, features of its item, and who acted."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from recsys_meta.core.cells import value_text
from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import LATITUDE, LONGITUDE, FeatureField, Schema
from recsys_meta.inference.requests.entity import Interaction, RawFeatures

MAX_DEGREES = {LATITUDE: 90.0, LONGITUDE: 180.0}
ACTOR = "actor"
"""The context field that says who acted."""

_MAX_FLOAT32 = 3e38  # beyond, a float32 is infinite


class ContextFields:
    """The names that a context may hold for one model: fields of the row, features of the item, and the actor."""

    def __init__(
        self, row: Iterable[FeatureField] = (), item: Iterable[FeatureField] = (), has_actors: bool = False
    ) -> None:
        self.row_fields, self.item_fields = {f.name: f for f in row}, {f.name: f for f in item}
        self.has_actors = has_actors
        self.all_fields = {**self.item_fields, **self.row_fields}
        self.names = sorted([*self.all_fields, *([ACTOR] if has_actors else [])])
        self._names = frozenset(self.names)

    @classmethod
    def of_schema(cls, schema: Schema) -> ContextFields:
        """Build the fields of a schema; those of items only where every entity has items of its own."""
        item_fields = schema.item_features if schema.home else ()
        return cls(schema.context, [f for f in item_fields if f.name != schema.home], schema.actor is not None)

    def interaction(
        self, item: str, label: float | None, time: float | None, context: RawFeatures | None
    ) -> Interaction:
        """Build an event from a flat context, of which `actor` says who acted where rows have actors."""
        if not context or not self.has_actors or ACTOR not in context:
            return Interaction(item, label, time, context)
        actor = context[ACTOR]
        rest = {name: value for name, value in context.items() if name != ACTOR}
        return Interaction(item, label, time, rest, value_text(actor) or None)

    def check(self, context: RawFeatures, names: Collection[str] | None = None, noun: str = "context field") -> None:
        """Raise DataError for a name that is not among `names` (all fields where None), or for degrees beyond the
        globe. `noun` is what the error calls a name."""
        names = self._names if names is None else names
        for name, value in context.items():
            if name not in names:
                remedy = f"Known: {', '.join(sorted(names)) or 'none'}"
                raise DataError(f"the model has no such {noun}", field=name, remedy=remedy)
            check_degrees(name, value)

    def readable_values(self, context: RawFeatures) -> dict[str, object]:
        """Select the values of a stored context that this model can read: it may have been stored for another."""
        return {name: v for name, v in context.items() if name in self._names and self._is_readable(name, v)}

    def _is_readable(self, name: str, value: object) -> bool:
        field = self.all_fields.get(name)
        if field is None or value is None or field.kind != "numeric":
            return True
        try:
            return abs(float(value)) <= MAX_DEGREES.get(name, _MAX_FLOAT32)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return False

    def row_values(self, context: RawFeatures | None) -> RawFeatures:
        """Select the values that describe the row."""
        return {name: v for name, v in context.items() if name in self.row_fields} if context else {}

    def item_values(self, context: RawFeatures | None) -> RawFeatures:
        """Select the values that describe the item, without missing ones."""
        return {name: v for name, v in context.items() if name in self.item_fields and v is not None} if context else {}


def check_degrees(name: str, value: object) -> None:
    """Raise DataError for a latitude or a longitude beyond the globe."""
    if is_invalid_coordinate(name, value):
        limit = MAX_DEGREES[name]
        raise DataError(f"{value} is no number of degrees from {-limit:g} to {limit:g}", field=name)


def is_invalid_coordinate(name: str, value: object) -> bool:
    """Return True for a latitude or a longitude that is a number beyond the globe."""
    limit = MAX_DEGREES.get(name)
    if limit is None or value is None:
        return False
    try:
        return abs(float(value)) > limit  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


NO_CONTEXT = ContextFields()
