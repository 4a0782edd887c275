"""Feature fields as tables of additive effects: sparse columns for a fit, look-ups for scoring.

A side is "entity", "item" or "context". Each of its fields has a table, `<side>.<name>` [V, D] for ids or
`<side>.<name>.weight` for numbers (see `embeddings.init_embedding_bag`), and `<side>.<name>.mean` [D], its mean effect
over the training rows, which stands in for rows without the field.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset, FeatureTable
from recsys_meta.core.types import FIRST, IntArray, Interactions, Params
from recsys_meta.models.baselines.click.solvers.click_rows import ClickRows
from recsys_meta.models.functional.embeddings import embed_fields, init_embedding_bag
from recsys_meta.models.functional.interpolation import encode_numbers


def init_tables(side: str, table: FeatureTable, rows: IntArray) -> Params:
    """Build zero tables [V, 1] of a side's fields; the knots of numbers are quantiles over `rows`."""
    columns = {name: column for name, column in table.items() if not column.numeric or len(rows)}
    return init_embedding_bag(side, columns, rows, 1, 0.0, torch.Generator())


def init_all_tables(data: Dataset, rows: ClickRows, entities: IntArray) -> Params:
    """Build zero tables of all three sides; items count once for each of their rows."""
    tables = init_tables("entity", data.entities, np.asarray(entities, np.int64))
    tables |= init_tables("item", data.items, rows.item.numpy())
    return tables | init_tables("context", rows.context, np.arange(len(rows)))


def field_names(tables: Mapping[str, Tensor], side: str) -> list[str]:
    """List the fields of a side in the order of their columns."""
    ends = (".knots", ".mean")
    names = [k.removeprefix(f"{side}.") for k in tables if k.startswith(f"{side}.") and not k.endswith(ends)]
    return [k.removesuffix(".weight") for k in names]


def encode_fields(tables: Mapping[str, Tensor], side: str, features: Mapping[str, Tensor]) -> list[sp.csr_matrix]:
    """Encode each field of a side as columns [N, V]: equal shares for the values of ids, hat functions for a number."""
    return [_encode_field(tables, f"{side}.{name}", features[name]) for name in field_names(tables, side)]


def encode_side(tables: Mapping[str, Tensor], side: str, features: Mapping[str, Tensor], rows: int) -> sp.csr_matrix:
    """Encode all fields of a side as columns next to one another, [N, V]; [rows, 0] without fields."""
    blocks = encode_fields(tables, side, features)
    return sp.hstack(blocks, "csr", np.float64) if blocks else sp.csr_matrix((rows, 0))


def _encode_field(tables: Mapping[str, Tensor], key: str, value: Tensor) -> sp.csr_matrix:
    if value.is_floating_point():
        return sp.csr_matrix(encode_numbers(value, tables[f"{key}.knots"]).double().numpy())
    mask = value > 0
    share = mask.double() / mask.sum(1, keepdim=True).clamp(min=1)
    row = torch.arange(len(value))[:, None].expand_as(value)
    return sp.csr_matrix(
        (share[mask].numpy(), (row[mask].numpy(), value[mask].numpy())), shape=(len(value), len(tables[key]))
    )


def fill_tables(tables: Mapping[str, Tensor], side: str, weights: Tensor, columns: sp.csr_matrix) -> Params:
    """Fill the tables of a side with weights [V, D], in the order of the columns of `encode_side`, and their means over
    the rows of columns [N, V]."""
    result: Params = {k: v for k, v in tables.items() if k.startswith(f"{side}.") and k.endswith(".knots")}
    mean = torch.from_numpy(np.asarray(columns.mean(0)).reshape(-1)) if columns.shape[0] else weights.new_zeros(0)
    start = 0
    for name in field_names(tables, side):
        key = f"{side}.{name}"
        table = f"{key}.weight" if f"{key}.weight" in tables else key
        stop = start + len(tables[table])
        result[table] = weights[start:stop].float()
        result[f"{key}.mean"] = (mean[start:stop].to(weights.dtype) @ weights[start:stop]).float()
        start = stop
    return result


def field_effects(tables: Mapping[str, Tensor], side: str, features: Mapping[str, Tensor]) -> list[Tensor]:
    """Look up the effect of each field of a side, [N, D], or its mean [1, D] if `features` lack the field.

    Fields with features come first.
    """
    names = field_names(tables, side)
    present = {name: features[name] for name in names if name in features}
    return embed_fields(tables, side, present) + [
        tables[f"{side}.{name}.mean"][None] for name in names if name not in present
    ]


def context_field_effects(tables: Mapping[str, Tensor], rows: Interactions) -> list[Tensor]:
    """Look up the effect of each context field of rows, [T, R, D], or its mean [1, 1, D] if the rows lack the field."""
    flat = {k: v.reshape(-1) if v.is_floating_point() else v.reshape(-1, 1) for k, v in rows.context.items()}
    present = [name for name in field_names(tables, "context") if name in flat]
    effects = field_effects(tables, "context", flat)
    per_row = [p.reshape(*rows.item.shape, p.shape[1]) for p in effects[: len(present)]]
    return per_row + [p[None] for p in effects[len(present) :]]


def total_effect(tables: Mapping[str, Tensor], side: str, features: Mapping[str, Tensor]) -> Tensor | None:
    """Sum the effects of a side's fields, [N, D]; [1, D] without features, None if the side has no fields."""
    effects = field_effects(tables, side, features)
    return sum(effects[1:], effects[0]) if effects else None


def total_context_effect(tables: Mapping[str, Tensor], rows: Interactions) -> Tensor | None:
    """Sum the effects of the context of rows, [T, R, D]; [1, 1, D] without context, None if it has no fields."""
    effects = context_field_effects(tables, rows)
    return sum(effects[1:], effects[0]) if effects else None


def mean_context_effect(tables: Mapping[str, Tensor]) -> Tensor | None:
    """Return the mean effect of the context, [D], or None if it has no fields."""
    effect = total_effect(tables, "context", {})
    return None if effect is None else effect[0]


def item_indicators(catalogue: int) -> sp.csr_matrix:
    """Return indicator columns of the items, [C, C]; those of the reserved ids are zero."""
    diagonal = np.ones(catalogue)
    diagonal[:FIRST] = 0
    return sp.diags(diagonal, format="csr")
