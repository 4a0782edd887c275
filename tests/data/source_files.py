"""Small tables written to disk, and prepared data read back as plain rows."""

import gzip
from collections import Counter
from pathlib import Path

import numpy as np

from recsys_meta.core.dataset import NO_TIME
from recsys_meta.core.types import FIRST
from recsys_meta.data import prepare_custom

HEAD = "user,item,rating,time\n"
GOOD = HEAD + "u1,i1,4,100\nu1,i2,5,200\nu2,i1,1,300\n"
SCHEMA = """
name = "small"
label = "rating"
label_range = [1, 5]
time = "time"
"""


def write(folder: Path, events, schema: str = SCHEMA, files: str = "", name: str = "events.csv", **others) -> Path:
    """A schema with its files; contents are text or bytes, gzipped where the name ends so."""
    folder.mkdir(parents=True, exist_ok=True)
    if events is not None:
        content = events.encode() if isinstance(events, str) else events
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    for key, content in others.items():
        (folder / f"{key}.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    head, _, features = schema.partition("[[")
    body = f'[files]\nevents = "{name}"\n' + "".join(f'{k} = "{k}.csv"\n' for k in others) + files
    path = folder / "schema.toml"
    path.write_text(head + "\n" + body + ("\n[[" + features if features else ""), encoding="utf-8")
    return path


def put(folder, **files):
    """Files in a new folder: names have __ for a dot; gzipped where the name ends so."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        data = content.encode("latin-1") if not isinstance(content, bytes) else content
        path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    return folder


def prepared(folder: Path, events, on_error: str = "fail", block: int = 2**20, **given):
    """Write a table and prepare it."""
    return prepare_custom(write(folder / "raw", events, **given), folder / "out", on_error, block=block)


def rows(data) -> list[tuple]:
    """(entity, item, label, time) of every row in stored order; None for an unknown time."""
    entity = np.repeat(np.arange(data.events.entity_count), data.events.counts)
    time = data.events.time if data.events.time is not None else np.full(len(data.events), NO_TIME)
    return [
        (
            data.vocab.value("entity", int(e) + FIRST),
            data.vocab.value("item", int(i)),
            float(label),
            None if t == NO_TIME else int(t),
        )
        for e, i, label, t in zip(entity, data.events.item, data.events.label, time, strict=True)
    ]


def bag(data) -> Counter:
    """The rows as a multiset."""
    return Counter(rows(data))


def cells(data, table: str, name: str) -> list[list[str]]:
    """Values of an id feature, row by row; '?' for unknown."""
    column = (data.entities if table == "entity" else data.items)[name]
    space = f"{table}.{name}"
    return [
        ["?" if v < FIRST else data.vocab.value(space, int(v)) for v in column.values[a:b]]
        for a, b in zip(column.indptr[:-1], column.indptr[1:], strict=True)
    ]
