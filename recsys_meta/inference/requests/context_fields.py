"""The words of a told context: what a row was like, what its item is like, and who acted."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import LATITUDE, LONGITUDE, FeatureField, Schema
from recsys_meta.inference.requests.entity import Interaction, RawFeatures

DEGREES = {LATITUDE: 90.0, LONGITUDE: 180.0}
ACTOR = "actor"
"""The word that says who acted."""


class ContextFields:
    """The words that a told context may have: fields of a row, fields of an item, the actor."""

    def __init__(
        self, row: Iterable[FeatureField] = (), item: Iterable[FeatureField] = (), actors: bool = False
    ) -> None:
        self.row, self.item, self.actors = {f.name: f for f in row}, {f.name: f for f in item}, actors
        self.every = {**self.item, **self.row}
        self.names = sorted([*self.every, *([ACTOR] if actors else [])])
        self._names = frozenset(self.names)

    @classmethod
    def of(cls, schema: Schema) -> ContextFields:
        """Those of a schema."""
        own = schema.item_features if schema.home else ()
        return cls(schema.context, [f for f in own if f.name != schema.home], schema.actor is not None)

    def interaction(self, item: str, label: float | None, time: float | None, words: RawFeatures | None) -> Interaction:
        """An event told with flat words, of which `actor` says who acted, where rows have actors."""
        if not words or not self.actors or ACTOR not in words:
            return Interaction(item, label, time, words)
        actor = words[ACTOR]
        rest = {k: v for k, v in words.items() if k != ACTOR}
        return Interaction(item, label, time, rest, None if actor in (None, "") else str(actor))

    def check(self, words: RawFeatures, known: Collection[str] | None = None, what: str = "context field") -> None:
        """Raise DataError for a word that is none of the known ones (all, where left out), or degrees beyond the
        globe."""
        names = self._names if known is None else known
        for name, value in words.items():
            if name not in names:
                remedy = f"Known: {', '.join(sorted(names)) or 'none'}"
                raise DataError(f"the model has no such {what}", field=name, remedy=remedy)
            check_degrees(name, value)

    def readable(self, words: RawFeatures) -> dict[str, object]:
        """What of a stored context this model can read: it may have been stored for another."""
        return {k: v for k, v in words.items() if k in self._names and self._reads(k, v)}

    def _reads(self, name: str, value: object) -> bool:
        field = self.every.get(name)
        if field is None or value is None or field.kind != "numeric":
            return True
        try:
            return abs(float(value)) <= DEGREES.get(name, 3e38)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return False

    def of_row(self, words: RawFeatures | None) -> RawFeatures:
        """What is said of the row."""
        return {k: v for k, v in words.items() if k in self.row} if words else {}

    def of_item(self, words: RawFeatures | None) -> RawFeatures:
        """What is said of the item."""
        return {k: v for k, v in words.items() if k in self.item and v is not None} if words else {}


def check_degrees(name: str, value: object) -> None:
    """Raise DataError for a latitude or a longitude beyond the globe."""
    if invalid_coordinates(name, value):
        most = DEGREES[name]
        raise DataError(f"{value} is no number of degrees from {-most:g} to {most:g}", field=name)


def invalid_coordinates(name: str, value: object) -> bool:
    """Whether this is a latitude or a longitude, and none that there is."""
    most = DEGREES.get(name)
    if most is None or value is None:
        return False
    try:
        return abs(float(value)) > most  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


NO_FIELDS = ContextFields()
