"""`recsys-meta recommend` and `recsys-meta adapt`: the API's answers without a server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from pipelines.console import Json, bar, emit, err, show
from pipelines.workspace import Workspace
from recsys_meta.durable import TEMPORARY
from recsys_meta.errors import ConfigError, DataError
from recsys_meta.recommend import Answer, Interaction, Newcomer, Recommender, dump_state, recommend
from recsys_meta.store import entities as known
from recsys_meta.store import events as happened

CHUNK = 512
"""Entities adapted at once by `adapt`."""


def recommend_command(
    model: Annotated[str, typer.Argument(help="NAME, NAME@VERSION or the folder of a bundle.")],
    events: Annotated[Path | None, typer.Option(help="CSV, JSON or Parquet with item and perhaps label, time.")] = None,
    items: Annotated[str | None, typer.Option(help="Items the newcomer met, separated by commas.")] = None,
    entity: Annotated[str | None, typer.Option(help="Use what the database holds of this entity.")] = None,
    feature: Annotated[list[str] | None, typer.Option(help="A feature: age=25 (lists separated by |).")] = None,
    n: Annotated[int, typer.Option("-n", min=1, max=1000)] = 10,
    as_json: Json = False,
) -> None:
    """Adapt to one newcomer and rank the catalogue: the same answer as the API's, without a server."""
    workspace = Workspace()
    bundle = workspace.bundle(model)
    features = _features(feature or [])
    interactions = read_events(events) if events is not None else []
    interactions += [Interaction(i.strip()) for i in (items or "").split(",") if i.strip()]
    if entity is not None:
        stored, met = _stored(workspace, bundle.schema.kind, entity)
        features, interactions = {**stored, **features}, met + interactions
    if interactions and bundle.schema.objective != "ranking" and any(i.label is None for i in interactions):
        raise DataError("events need a label", field="label", remedy="Give --events with a label column")
    answer = recommend(Recommender(bundle), Newcomer(features, interactions), n)
    name = model.partition("@")[0]
    if as_json:
        emit(answer_json(answer, name, bundle.version))
        return
    title = f"{name}@{bundle.version}: {answer.served_by}, {answer.support_size} events"
    show(
        title,
        ("rank", "item", "title", "score"),
        [(i + 1, s.item, s.title, s.score) for i, s in enumerate(answer.items)],
    )
    if answer.unknown:
        err.print(f"[yellow]the model does not know {', '.join(answer.unknown[:5])}; they were left out[/]")


def answer_json(answer: Answer, model: str, version: str) -> dict[str, Any]:
    """An answer in the API's form."""
    return {
        "model": {"name": model, "version": version},
        "served_by": answer.served_by,
        "degraded": False,
        "missing": [],
        "support_size": answer.support_size,
        "unknown_items": list(answer.unknown),
        "items": [
            {"rank": i + 1, "item": s.item, "score": s.score, "title": s.title} for i, s in enumerate(answer.items)
        ],
    }


def _features(pairs: Sequence[str]) -> dict[str, object]:
    features: dict[str, object] = {}
    for pair in pairs:
        name, found, value = pair.partition("=")
        if not found or not name:
            raise ConfigError(f"--feature {pair!r} is not name=value")
        features[name] = value
    return features


def _stored(workspace: Workspace, kind: str, entity: str) -> tuple[dict[str, object], list[Interaction]]:
    with workspace.reading() as session:
        row = known.find(session, kind, entity)
        met = happened.support(session, kind, entity, limit=500)
        return dict(row.features) if row else {}, [
            Interaction(e.item, e.label, e.time.timestamp() if e.time else None) for e in met
        ]


def read_events(path: Path) -> list[Interaction]:
    """The interactions of one newcomer from a file. Raises DataError naming file, line and field."""
    frame = _frame(path)
    return _interactions(path, frame)


def _frame(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise DataError("no such file", file=path)
    try:
        match path.suffix:
            case ".parquet":
                frame = pd.read_parquet(path)
            case ".json":
                frame = pd.DataFrame(json.loads(path.read_text(encoding="utf-8")))
            case ".jsonl":
                frame = pd.read_json(path, lines=True, dtype=False)
            case _:
                frame = pd.read_csv(path, dtype={"item": "str", "entity": "str"}, keep_default_na=False, na_values=[""])
    except (ValueError, OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"cannot be read ({type(error).__name__})", file=path, remedy="Give CSV, JSON or Parquet"
        ) from None
    if not isinstance(frame.index, pd.RangeIndex) and path.suffix != ".parquet":
        # pandas takes surplus fields for row labels and shifts the others: another item would be met in silence
        raise DataError("lines have more fields than the header", file=path, remedy="Quote ids that hold a comma")
    if "item" not in frame.columns:
        raise DataError(
            "there is no such column", file=path, field="item", remedy=f"Found: {', '.join(map(str, frame.columns))}"
        )
    return frame


def _interactions(path: Path, frame: pd.DataFrame) -> list[Interaction]:
    for field in ("label", "time"):
        if field in frame.columns:
            numbers = pd.to_numeric(frame[field], errors="coerce")
            if field == "time":
                numbers = numbers.fillna(_moments(frame[field]))
            bad = numbers.isna() & frame[field].notna()
            if bad.any():
                at = int(bad.to_numpy().argmax())
                what = "neither seconds since 1970 nor ISO 8601" if field == "time" else "not a number"
                raise DataError(f"{frame[field].iloc[at]!r} is {what}", file=path, line=at + 2, field=field)
            frame = frame.assign(**{field: numbers})
    empty = frame["item"].isna() | (frame["item"].astype("str").str.strip() == "")
    if empty.any():
        raise DataError("the item is empty", file=path, line=int(empty.to_numpy().argmax()) + 2, field="item")
    labels = frame["label"].tolist() if "label" in frame.columns else [None] * len(frame)
    times = frame["time"].tolist() if "time" in frame.columns else [None] * len(frame)
    return [
        Interaction(str(item), None if pd.isna(label) else float(label), None if pd.isna(at) else float(at))
        for item, label, at in zip(frame["item"].tolist(), labels, times, strict=True)
    ]


def _moments(cells: pd.Series) -> pd.Series:
    """ISO 8601 texts as seconds since 1970, UTC unless they say otherwise; NaN where a cell is none."""
    moments = pd.to_datetime(
        cells.where(cells.map(lambda c: isinstance(c, str))), utc=True, errors="coerce", format="ISO8601"
    )
    return (moments - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)


def adapt_command(
    model: Annotated[str, typer.Argument(help="NAME, NAME@VERSION or the folder of a bundle.")],
    events: Annotated[Path, typer.Option(help="CSV or Parquet with entity, item and perhaps label, time.")],
    out_file: Annotated[Path, typer.Option("--out", help="Parquet file to write.")],
    n: Annotated[int, typer.Option("-n", min=1, max=1000, help="Items of each list.")] = 10,
    as_json: Json = False,
) -> None:
    """Adapt to every entity of a table; writes entity, support size, list of items with scores, and state."""
    workspace = Workspace()
    recommender = Recommender(workspace.bundle(model))
    frame = _frame(events)
    if "entity" not in frame.columns:
        raise DataError(
            "there is no such column", file=events, field="entity", remedy="Name the newcomer of each event"
        )
    schema = pa.schema(
        [
            ("entity", pa.string()),
            ("support_size", pa.int32()),
            ("items", pa.list_(pa.string())),
            ("scores", pa.list_(pa.float32())),
            ("state", pa.binary()),
        ]
    )
    _make_room(out_file)
    beside = out_file.parent / f"{TEMPORARY}{out_file.name}"
    total = int(frame["entity"].nunique())
    try:
        with bar() as progress, pq.ParquetWriter(beside, schema) as writer:
            task = progress.add_task("adapting", total=total, note="")
            for part in _newcomers(events, frame):
                writer.write_table(pa.Table.from_pylist(_adapted(recommender, part, n), schema))
                progress.advance(task, len(part))
        beside.replace(out_file)
    finally:
        beside.unlink(missing_ok=True)
    if as_json:
        emit({"entities": total, "file": str(out_file), "version": recommender.version})
    else:
        err.print(f"wrote {total} entities to {out_file}")


def _make_room(out_file: Path) -> None:
    """The folder of an output file, before any work is done. Raises ConfigError where nothing can be written."""
    try:
        out_file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out_file}: its folder cannot be made: {error.strerror}") from None
    if out_file.is_dir():
        raise ConfigError(f"--out {out_file} is a folder; name a Parquet file in it")
    if not os.access(out_file.parent, os.W_OK):
        raise ConfigError(f"--out {out_file}: its folder cannot be written")


def _newcomers(path: Path, frame: pd.DataFrame) -> Iterator[list[tuple[str, Newcomer]]]:
    part: list[tuple[str, Newcomer]] = []
    interactions = _interactions(path, frame)
    for entity, rows in frame.groupby(frame["entity"].astype("str"), sort=True).indices.items():
        part.append((str(entity), Newcomer(events=[interactions[i] for i in rows])))
        if len(part) == CHUNK:
            yield part
            part = []
    if part:
        yield part


def _adapted(recommender: Recommender, part: list[tuple[str, Newcomer]], n: int) -> list[dict[str, Any]]:
    known_part = [recommender.know(newcomer) for _, newcomer in part]
    state = recommender.adapt(known_part)
    scores = recommender.scores(state)
    rows = []
    for i, ((entity, _), one) in enumerate(zip(part, known_part, strict=True)):
        best = recommender.top(scores[i], n, exclude=one.seen)
        rows.append(
            {
                "entity": entity,
                "support_size": len(one.items),
                "items": [b.item for b in best],
                "scores": [b.score for b in best],
                "state": dump_state({k: v[i : i + 1] for k, v in state.items()}),
            }
        )
    return rows


def add_to(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command("recommend")(recommend_command)
    app.command("adapt")(adapt_command)
