"""Any table of pandas, pyarrow or polars, of any of their types, is the same at every door, or refused at each."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.batch.event_files import EventFormat, event_tables, interactions_of, read_events
from recsys_meta.core.errors import DataError
from recsys_meta.core.feature_tensors import encode_raw
from recsys_meta.core.schema import read_schema
from recsys_meta.core.types import FIRST
from recsys_meta.data import prepare_custom
from recsys_meta.inference.requests.context_fields import ContextFields
from recsys_meta.wire.requests import SupportEvent

SCHEMA = """
name = "any"
entity = "entity"
item = "item"
label = "label"
label_values = { view = 1, cart = 3 }
time = "time"
exact_time = false
[files]
events = "NAME"
duplicates = "keep"
[[context]]
name = "category"
[[context]]
name = "number"
kind = "numeric"
"""

MOMENT = dt.datetime(2026, 1, 31, 12, 0, 0, 250_000)
TEXTS = ["a", "007", "7", "1.0", "x y", "é", "True", "nan", "1e3", "-"]
IDS = {
    "text": (TEXTS, pa.string()),
    "large text": (TEXTS, pa.large_string()),
    "codes": (TEXTS, pa.dictionary(pa.int8(), pa.string())),
    "whole": ([1, 2, 30], pa.int64()),
    "small": ([1, 2, 30], pa.uint8()),
    "large": ([2**63 + 1, 2], pa.uint64()),
    "whole floats": ([1.0, 2.0], pa.float64()),
    "fractions": ([1.5, 2.0], pa.float64()),
    "booleans": ([True, False], pa.bool_()),
    "decimals": ([Decimal(1), Decimal(20)], pa.decimal128(20, 0)),
    "days": ([dt.date(2026, 1, 31)], pa.date32()),
    "moments": ([MOMENT], pa.timestamp("us")),
}
LABELS = {
    "whole": ([1, 2, 5], pa.int16()),
    "floats": ([1.0, 2.5], pa.float32()),
    "booleans": ([True, False], pa.bool_()),
    "texts": (["1", "2.5", "view", "cart"], pa.string()),
    "words": (["view", "cart"], pa.dictionary(pa.int8(), pa.string())),
    "decimals": ([Decimal("1.50"), Decimal("2.00")], pa.decimal128(5, 2)),
    "other words": (["view", "buy"], pa.string()),
}
TIMES = {
    "seconds": ([1_600_000_000, 1_600_000_001, None], pa.int64()),
    "milliseconds": ([1_600_000_000_250, 1_600_000_000_750], pa.int64()),
    "fractions": ([1_600_000_000.25, 1_600_000_000.75], pa.float64()),
    "moments": ([MOMENT, MOMENT.replace(year=2025), None], pa.timestamp("us")),
    "exact moments": ([MOMENT], pa.timestamp("ns")),
    "zoned": ([MOMENT], pa.timestamp("ms", "Europe/Berlin")),
    "days": ([dt.date(2026, 1, 31), dt.date(1970, 8, 22), None], pa.date32()),
    "early moments": ([dt.datetime(1970, 8, 22, 19, 18, 42)], pa.timestamp("s")),
    "texts": (["2026-01-31T12:00:00Z", "2026-01-31 12:00:00", "1600000000"], pa.string()),
    "digits": ([20260131, 20260201], pa.int32()),
    "before 1970": ([dt.date(1969, 1, 1)], pa.date32()),
    "booleans": ([True], pa.bool_()),
}
CATEGORIES = {
    "texts": (["a", "True", "7.0", "7", " b ", "", None], pa.string()),
    "booleans": ([True, False, None], pa.bool_()),
    "whole": ([7, 8, None], pa.int32()),
    "floats": ([7.0, 0.1, None], pa.float64()),
    "short floats": ([7.0, 0.1], pa.float32()),
    "codes": (["a", "b", None], pa.dictionary(pa.int32(), pa.string())),
    "days": ([dt.date(2026, 1, 31), None], pa.date32()),
    "decimals": ([Decimal("7.00"), Decimal("0.50")], pa.decimal128(5, 2)),
}
NUMBERS = {
    "floats": ([1.5, -2.0, None], pa.float64()),
    "whole": ([1, None], pa.int8()),
    "booleans": ([True, False], pa.bool_()),
    "texts": (["1.5", "", "1e3"], pa.string()),
    "words": (["1.5", "many"], pa.string()),
}

KINDS = {"entity": IDS, "item": IDS, "label": LABELS, "time": TIMES, "category": CATEGORIES, "number": NUMBERS}


def to_pandas(table: pa.Table) -> pd.DataFrame:
    return table.to_pandas()


def to_polars(table: pa.Table):
    return pytest.importorskip("polars").from_arrow(table)


WRITERS = {
    "pandas.csv": lambda t, p: to_pandas(t).to_csv(p, index=False),
    "pandas.json": lambda t, p: to_pandas(t).to_json(p, orient="records", date_format="iso"),
    "pandas.jsonl": lambda t, p: to_pandas(t).to_json(p, orient="records", lines=True, date_format="iso"),
    "pandas.parquet": lambda t, p: to_pandas(t).to_parquet(p),
    "pandas.feather": lambda t, p: to_pandas(t).to_feather(p),
    "arrow.csv": lambda t, p: pyarrow.csv.write_csv(plain(t), p),
    "arrow.parquet": lambda t, p: pq.write_table(t, p, row_group_size=2),
    "arrow.feather": lambda t, p: pyarrow.feather.write_feather(t, p, compression="uncompressed"),
    "polars.csv": lambda t, p: to_polars(t).write_csv(p),
    "polars.jsonl": lambda t, p: to_polars(t).write_ndjson(p),
    "polars.parquet": lambda t, p: to_polars(t).write_parquet(p),
    "polars.feather": lambda t, p: to_polars(t).write_ipc(p),
}


def plain(table: pa.Table) -> pa.Table:
    """Arrow's writer of CSV has no dictionaries."""
    kinds = [f.type.value_type if pa.types.is_dictionary(f.type) else f.type for f in table.schema]
    return table.cast(pa.schema([pa.field(f.name, kind) for f, kind in zip(table.schema, kinds, strict=True)]))


@st.composite
def tables(draw) -> pa.Table:
    count = draw(st.integers(1, 5))
    columns = {}
    for name, kinds in KINDS.items():
        values, kind = kinds[draw(st.sampled_from(sorted(kinds)))]
        columns[name] = pa.array(draw(st.lists(st.sampled_from(values), min_size=count, max_size=count)), kind)
    return pa.table(columns)


def case(writer: str, **chosen: str) -> tuple[str, pa.Table]:
    first = {name: next(iter(table)) for name, table in KINDS.items()} | chosen
    return writer, pa.table({n: pa.array(KINDS[n][k][0][:1], KINDS[n][k][1]) for n, k in first.items()})


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(made=st.tuples(st.sampled_from(sorted(WRITERS)), tables()))
@example(made=case("arrow.parquet", category="booleans", label="booleans"))
@example(made=case("pandas.csv", category="booleans", label="booleans"))
@example(made=case("polars.csv", category="floats", item="whole floats"))
@example(made=case("arrow.parquet", time="early moments"))
@example(made=case("pandas.parquet", entity="booleans"))
@example(made=case("pandas.feather", item="fractions"))
@example(made=case("polars.jsonl", item="decimals", time="zoned"))
def test_a_table_is_the_same_at_every_door(tmp_path_factory, made):
    writer, table = made
    folder = tmp_path_factory.mktemp("t")
    path = folder / f"events.{writer.partition('.')[2]}"
    try:
        WRITERS[writer](table, path)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, NotImplementedError):
        return  # the library itself cannot write such a table
    prepared, adapted, recommended = (door(folder, path) for door in (at_prepare, at_adapt, at_recommend))
    assert adapted == recommended
    assert [r is None for r in (prepared, adapted)] in ([True, True], [False, False]), (
        table.to_pylist(),
        prepared,
        adapted,
    )
    if prepared is None:
        return
    assert prepared["rows"] == adapted
    check_requests(folder, prepared["data"], table, typed=writer.endswith(("parquet", "feather")))


def at_prepare(folder: Path, path: Path):
    """What training reads: rows as texts and numbers, and the data set; None where the table is refused."""
    (folder / "schema.toml").write_text(SCHEMA.replace("NAME", path.name))
    try:
        data = prepare_custom(folder / "schema.toml", folder / "out")
    except DataError:
        return None
    events, vocab = data.events, data.vocab
    entity = np.repeat(np.arange(events.entity_count), events.counts)
    categories = ["", "?", *vocab.values["context.category"]]
    rows = [
        (
            vocab.value("entity", int(e) + FIRST),
            vocab.value("item", int(i)),
            float(label),
            None if t > 2**62 else int(t),
            categories[c],
            None if np.isnan(x) else float(x),
        )
        for e, i, label, t, c, x in zip(
            entity,
            events.item,
            events.label,
            events.time,
            events.context["category"],
            events.context["number"],
            strict=True,
        )
    ]
    return {"rows": sorted(rows, key=repr), "data": data}


def shown(entity: str, event, schema, vocab=None) -> tuple:
    from recsys_meta.core.cells import value_text
    from recsys_meta.core.feature_encoding import split_values

    context = event.context or {}
    category = split_values(schema.context[0], value_text(context.get("category")))
    number = context.get("number")
    return (
        entity,
        event.item,
        float(np.float32(event.label)),
        None if event.time is None else int(event.time),
        category[0] if category else "",
        None if number is None else float(np.float32(number)),
    )


def at_adapt(folder: Path, path: Path):
    schema = read_schema(folder / "schema.toml")[0]
    event_format = EventFormat(ContextFields.of_schema(schema), schema)
    try:
        parts = [
            t.to_pandas(types_mapper=pd.ArrowDtype) for t in event_tables(path, event_format.columns, event_format)
        ]
        frame = pd.concat(parts, ignore_index=True)
        events = interactions_of(path, frame, event_format.fields)
    except DataError:
        return None
    entities = frame["entity"].tolist()
    return sorted((shown(e, i, schema) for e, i in zip(entities, events, strict=True)), key=repr)


def at_recommend(folder: Path, path: Path):
    schema = read_schema(folder / "schema.toml")[0]
    fields = ContextFields.of_schema(schema)
    try:
        events = read_events(path, fields, schema)
        entities = pd.concat([t.to_pandas() for t in event_tables(path, ["entity", "item"])])["entity"]
    except DataError:
        return None
    return sorted((shown(e, i, schema) for e, i in zip(entities, events, strict=True)), key=repr)


def check_requests(folder: Path, data, table: pa.Table, typed: bool) -> None:
    """Each value, as a JSON body has it, is what training knows, unless the API refuses its type."""
    schema, vocab = data.schema, data.vocab
    known = set(vocab.values["context.category"])
    for row in table.to_pylist():
        category = row["category"]
        if isinstance(category, dt.date):
            category = str(category)
        elif isinstance(category, Decimal):
            category = float(category)
        elif isinstance(category, float) and table.schema.field("category").type == pa.float32():
            category = float(str(np.float32(category)))
        if category in (None, "") or (not typed and isinstance(category, float)):
            continue
        body = {"item": row["item"], "label": row["label"], "time": row["time"], "context": {"category": category}}
        try:
            event = SupportEvent.model_validate_json(json.dumps(body, default=str))
        except ValidationError:  # an id that is no text, say
            event = SupportEvent.model_validate_json(json.dumps({"item": "i", "context": {"category": category}}))
        else:
            assert event.item in set(vocab.values["item"])
        ids = encode_raw(schema.context[:1], vocab, "context", [event.context])["category"]
        assert ids.tolist()[0][0] >= FIRST, (category, known)
