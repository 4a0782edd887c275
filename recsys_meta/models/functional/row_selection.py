"""Rows of tables that a batch of tasks reads: the batch on a catalogue of its own items, and tables of their rows.

A step then costs what its rows cost, whatever the size of the catalogue. Tables shrink only where they have more rows
than the batch has ids: else a pass over the table is the cheaper way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.types import FIRST, UNKNOWN, Params, RowSelection, Support, TaskBatch
from recsys_meta.models.functional.sampled_softmax import draw_negatives


def gather_selection(params: Params, selection: RowSelection) -> Params:
    """Parameters with the selected rows in place of the tables; gradients pass to the tables."""
    rows = {k: gather_rows(params[k], ids) for k, ids in selection.rows.items() if k not in selection.columns}
    columns = {k: params[k].index_select(1, selection.rows[k]) for k in selection.columns}
    return params | selection.params | rows | columns


def gather_rows(table: Tensor, ids: Tensor) -> Tensor:
    """Rows [n, ...] of a table [C] or [C, D]."""
    if table.dim() == 1:
        return functional.embedding(ids, table[:, None]).squeeze(1)
    return functional.embedding(ids, table)


def compact_ids(ids: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Distinct ids [n], ascending, and each given tensor of ids as positions among them. The reserved ids are always
    there, as the first, and so keep their numbers."""
    first_ids = torch.arange(FIRST, device=ids[0].device)
    distinct, position = torch.unique(torch.cat([first_ids, *(x.flatten() for x in ids)]), return_inverse=True)
    parts = position[FIRST:].split([x.numel() for x in ids])
    return distinct, [part.view(x.shape) for part, x in zip(parts, ids, strict=True)]


def select_items(
    params: Params, batch: TaskBatch, tables: Sequence[str], extra: Sequence[Tensor]
) -> RowSelection | None:
    """Select the items of a batch, and `extra` ones: rows of the named tables [C, ...], those of the catalogue's
    features, and of the tables of features where they are larger than what is read of them.

    The ids of `extra` come back as positions under "extra.<i>" among the params. None where the batch has as many ids
    as the catalogue has items.
    """
    batch_ids = [batch.support.rows.item, batch.query.item, *extra]
    features = {k: v for k, v in params.items() if k.startswith("catalogue.")}
    catalogue = min((len(params[k]) for k in (*tables, *features)), default=0)
    if sum(x.numel() for x in batch_ids) >= catalogue:
        return None
    distinct, (support, query, *others) = compact_ids(batch_ids)
    rows = dict.fromkeys(tables, distinct)
    columns = {k.removeprefix("catalogue."): v.index_select(0, distinct) for k, v in features.items()}
    item_rows, columns = select_values(params, "items", columns)
    entity_rows, entity = select_values(params, "entity", batch.support.features)
    buffers = {f"catalogue.{k}": v for k, v in columns.items()} | {f"extra.{i}": x for i, x in enumerate(others)}
    local = Support(entity, replace(batch.support.rows, item=support), batch.support.catalogue)
    return RowSelection(
        rows | item_rows | entity_rows,
        buffers,
        TaskBatch(batch.entity, local, replace(batch.query, item=query)),
    )


def select_sampled(
    params: Params, batch: TaskBatch, tables: Sequence[str], count: int, generator: torch.Generator, name: str
) -> RowSelection | None:
    """Select the items of a batch and `count` negatives, drawn by the params' log_q [C], for a sampled softmax.

    The params of the selection have log_q of its items and, under `name`, the negatives. None, and nothing is drawn,
    where the batch has as many ids as the catalogue.
    """
    if batch.support.rows.item.numel() + batch.query.item.numel() + count >= len(params["log_q"]):
        return None
    negatives = draw_negatives(params["log_q"], count, generator)
    selection = select_items(params, batch, [*tables, "log_q"], [negatives])
    assert selection is not None, "there are fewer ids than items"
    buffers = {k: v for k, v in selection.params.items() if not k.startswith("extra.")}
    buffers |= {"log_q": params["log_q"][selection.rows["log_q"]], name: selection.params["extra.0"]}
    return replace(selection, rows={k: v for k, v in selection.rows.items() if k != "log_q"}, params=buffers)


def select_values(
    params: Params, prefix: str, features: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Rows of the tables of an embedding bag that features name, for tables larger than that; and the features, their
    values as positions among the rows."""
    rows, local = {}, dict(features)
    for name, value in features.items():
        table = params.get(f"{prefix}.{name}")
        if table is None or value.is_floating_point() or value.numel() >= len(table):
            continue
        known = torch.where(value < len(table), value, UNKNOWN)
        rows[f"{prefix}.{name}"], (local[name],) = compact_ids([known])
    return rows, local
