"""Batch inference: the events of many entities become rows of support size, list of items with scores, and state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from pipelines.batch.event_files import (
    LINE_COLUMN,
    EventFormat,
    check_filled,
    event_tables,
    interactions_of,
    line_of,
)
from pipelines.batch.event_summary import EventSummary
from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import Schema
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EncodedEntity, EntityRequest, Interaction
from recsys_meta.inference.requests.support_reader import describe_labels, is_valid_label

RESULT_SCHEMA = pa.schema(
    [
        ("entity", pa.string()),
        ("support_size", pa.int32()),
        ("items", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
        ("state", pa.binary()),
    ]
)

MAX_ENTITIES = 512
"""Entities adapted at once."""

MAX_SCORES = 2**24
"""Scores held at once, about."""


def new_summary(recommender: Recommender) -> EventSummary:
    """Return an empty summary of events for a model."""
    schema = recommender.bundle.schema
    return EventSummary(() if schema.home is not None else recommender.catalog.ids, schema.time_format)


def read_tables(path: Path, recommender: Recommender, summary: EventSummary | None = None) -> Iterator[pa.Table]:
    """Read a table in parts, and check that the model can read them; add them to a summary.

    Raises DataError naming file, line and field where it cannot: before hours of work, not after them.
    """
    event_format = EventFormat(recommender.reader.fields, recommender.bundle.schema)
    for table in event_tables(path, event_format.columns, event_format):
        if "entity" not in table.column_names:
            remedy = "Name the newcomer of each event"
            raise DataError("there is no such column", file=path, field="entity", remedy=remedy)
        frame = table.to_pandas(types_mapper=pd.ArrowDtype).set_index(LINE_COLUMN)
        check_filled(path, frame, "entity")
        _check_labels(path, frame, recommender.bundle.schema)
        if summary is not None:
            summary.add(frame["item"], frame.get("time"))
        yield table


def _check_labels(path: Path, frame: pd.DataFrame, schema: Schema) -> None:
    label = frame["label"] if "label" in frame.columns else pd.Series(np.nan, frame.index)
    if schema.objective in ("rating", "click") and label.isna().any():
        remedy = f"This model predicts {schema.objective}s"
        line = line_of(label.isna())
        raise DataError("a label is needed", file=path, line=line, field="label", remedy=remedy)
    wrong = [value for value in label.dropna().unique() if not is_valid_label(schema, float(value))]
    if wrong:
        line = line_of(label.isin(wrong))
        raise DataError(f"{wrong[0]:g} is not {describe_labels(schema)}", file=path, line=line, field="label")


def entity_chunks(recommender: Recommender, frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Cut a table that holds entities whole into chunks that do too, in the order of the entities' names."""
    codes, names = pd.factorize(frame["entity"].astype("str").to_numpy(object), sort=True)
    order, ends = np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes, minlength=len(names)))
    step = max(1, min(MAX_ENTITIES, MAX_SCORES // recommender.catalog.size()))
    for first in range(0, len(names), step):
        begin = ends[first - 1] if first else 0
        yield frame.iloc[order[begin : ends[min(first + step, len(names)) - 1]]]


def recommend_chunk(recommender: Recommender, path: Path, n: int, chunk: pd.DataFrame) -> tuple[pa.Table, int]:
    """Recommend to the entities of a chunk of events; return the results and the number of events. Raises DataError
    naming file, line and field."""
    codes, names = pd.factorize(chunk["entity"].astype("str").to_numpy(object))
    events = interactions_of(path, chunk, recommender.reader.fields)
    by_entity = [events[begin:end] for begin, end in pairwise([0, *np.cumsum(np.bincount(codes)).tolist()])]
    try:
        entities = [recommender.read_support(EntityRequest(events=some)) for some in by_entity]
        return _recommend_entities(recommender, names.tolist(), entities, n), len(chunk)
    except DataError:
        _raise_at_line(recommender, path, events, chunk.index)
        raise


def _raise_at_line(recommender: Recommender, path: Path, events: Sequence[Interaction], lines: pd.Index) -> None:
    """Raise DataError for the first event that the model cannot read by itself."""
    for event, index in zip(events, lines, strict=True):
        try:
            recommender.read_support(EntityRequest(events=[event]))
            recommender.queries.check_context(event.context or {})
        except DataError as error:
            raise DataError(error.problem, file=path, line=int(index), field=error.field, remedy=error.remedy) from None


def _recommend_entities(
    recommender: Recommender, names: list[str], entities: Sequence[EncodedEntity], n: int
) -> pa.Table:
    state = recommender.adapt(entities)
    lists = recommender.lists.top_k_batch(recommender.scores(state, entities), n, entities)
    columns = [
        names,
        [entity.support_size for entity in entities],
        [[s.item for s in best] for best in lists],
        [[s.score for s in best] for best in lists],
        [recommender.dump({k: v[i : i + 1] for k, v in state.items()}) for i in range(len(entities))],
    ]
    return pa.table(dict(zip(RESULT_SCHEMA.names, columns, strict=True)), RESULT_SCHEMA)
