"""Check of features before they are stored, for all models of a kind: every door that stores some refuses the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from recsys_meta.core.errors import DataError
from recsys_meta.core.feature_tensors import encode_raw
from recsys_meta.core.schema import FeatureField, Schema
from recsys_meta.inference.requests.context_fields import MAX_DEGREES, check_degrees
from recsys_meta.models.bundle import Bundle

Side = Literal["entity", "item"]
"""Whose features they are."""


def known_features(schema: Schema, side: Side) -> dict[str, FeatureField]:
    """Return the features of a side that a caller may give, by name."""
    fields = schema.entity_features if side == "entity" else schema.item_features
    return {field.name: field for field in fields}


def check_features(bundles: Sequence[Bundle], side: Side, features: Mapping[str, Any]) -> None:
    """Raise DataError for a feature that none of the models has, or none of them can read; without models nothing is
    wrong. One that only some can read may be stored, since each model leaves out what it cannot read."""
    known = [known_features(bundle.schema, side) for bundle in bundles]
    names = {name for fields in known for name in fields}
    unknown = sorted(set(features) - names)
    if bundles and unknown:
        raise DataError(
            "no model has such a feature",
            field=unknown[0],
            remedy=f"Known features: {', '.join(sorted(names)) or 'none'}",
        )
    for name, value in features.items():
        having = [(bundle, fields[name]) for bundle, fields in zip(bundles, known, strict=True) if name in fields]
        complaints = [_complaint(bundle, side, field, value) for bundle, field in having]
        if complaints and None not in complaints:
            raise next(why for why in complaints if why is not None)


def _complaint(bundle: Bundle, side: Side, field: FeatureField, value: Any) -> DataError | None:
    try:
        encode_raw([field], bundle.vocab, side, [{field.name: value}])
        if field.kind == "numeric" and field.name in MAX_DEGREES:
            check_degrees(field.name, value)
    except DataError as error:
        return error
    return None
