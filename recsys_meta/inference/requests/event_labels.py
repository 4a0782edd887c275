"""Labels of the events of a request, also those that are written by the words of a model's data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import Schema


def read_labels(labels: Sequence[float | str | None], schema: Schema | None = None) -> list[float | None]:
    """Return labels as numbers; texts are words of the schema's `label_values`.

    Raises DataError for the first text that is none of them; it says which there are.
    """
    texts = [label for label in labels if isinstance(label, str)]
    if not texts:
        return cast("list[float | None]", list(labels))
    words = {} if schema is None else schema.label_values
    for text in texts:
        if text.strip() not in words:
            expected = f"a number, or one of {', '.join(sorted(words))}" if words else "a number"
            raise DataError(f"{text!r} is not a label: expected {expected}", field="label")
    return [words[label.strip()] if isinstance(label, str) else label for label in labels]
