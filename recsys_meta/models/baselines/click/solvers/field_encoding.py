"""Feature fields as additive tables: the sparse columns that a fit sees, and the look-ups that scoring does.

A field has one table, `<side>.<name>` [V, D] for ids or `<side>.<name>.weight` for numbers (see `nets.bag_init`), and
`<side>.<name>.mean` [D], what it contributes on average over the training rows, which stands in where a row does not
say anything of the field at all.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from recsys_meta.core.dataset import FeatureTable
from recsys_meta.core.types import FIRST, IntArray, Interactions, Params
from recsys_meta.models.functional.embeddings import embed_fields, init_embedding_bag
from recsys_meta.models.functional.interpolation import encode_numbers


def init_tables(side: str, table: FeatureTable, rows: IntArray) -> Params:
    """Empty tables [V, 1] of a side's fields; knots of numbers are quantiles over `rows`."""
    columns = {name: column for name, column in table.items() if not column.numeric or len(rows)}
    return init_embedding_bag(side, columns, rows, 1, 0.0, torch.Generator())


def field_names(tables: Mapping[str, Tensor], side: str) -> list[str]:
    """The fields of a side, in the order of their columns."""
    ends = (".knots", ".mean")
    names = [k.removeprefix(f"{side}.") for k in tables if k.startswith(f"{side}.") and not k.endswith(ends)]
    return [k.removesuffix(".weight") for k in names]


def encode_fields(tables: Mapping[str, Tensor], side: str, features: Mapping[str, Tensor]) -> list[sp.csr_matrix]:
    """Columns [N, V] of N rows, for each field of a side: a share for each value, hats for a number."""
    return [_encode_field(tables, f"{side}.{name}", features[name]) for name in field_names(tables, side)]


def encode_side(tables: Mapping[str, Tensor], side: str, features: Mapping[str, Tensor], rows: int) -> sp.csr_matrix:
    """The columns of all fields side by side, [N, V]."""
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
    """The tables of a side with weights [V, D] in the order of `encoded`, and their means over those columns."""
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
    """What each field of a side says, [N, D], or [1, D] where nothing is given of it."""
    names = field_names(tables, side)
    present = {name: features[name] for name in names if name in features}
    return embed_fields(tables, side, present) + [
        tables[f"{side}.{name}.mean"][None] for name in names if name not in present
    ]


def context_field_effects(tables: Mapping[str, Tensor], rows: Interactions) -> list[Tensor]:
    """What each field of the context of rows says, [T, R, D], or [1, 1, D] where nothing is given of it."""
    flat = {k: v.reshape(-1) if v.is_floating_point() else v.reshape(-1, 1) for k, v in rows.context.items()}
    present = [name for name in field_names(tables, "context") if name in flat]
    effects = field_effects(tables, "context", flat)
    per_row = [p.reshape(*rows.item.shape, p.shape[1]) for p in effects[: len(present)]]
    return per_row + [p[None] for p in effects[len(present) :]]


def total_effect(tables: Mapping[str, Tensor], side: str, features: Mapping[str, Tensor]) -> Tensor | None:
    """Sum over the fields of a side, [N, D]; [1, D] if nothing is given, None if the side has no fields."""
    effects = field_effects(tables, side, features)
    return sum(effects[1:], effects[0]) if effects else None


def context_effect(tables: Mapping[str, Tensor], rows: Interactions) -> Tensor | None:
    """What the context of rows adds, [T, R, D] ([1, 1, D] without context), or None if no context is known at all."""
    effects = context_field_effects(tables, rows)
    return sum(effects[1:], effects[0]) if effects else None


def mean_context_effect(tables: Mapping[str, Tensor]) -> Tensor | None:
    """What an average context adds, [D], or None if no context is known at all."""
    effect = total_effect(tables, "context", {})
    return None if effect is None else effect[0]


def item_indicators(catalogue: int) -> sp.csr_matrix:
    """One column for each item that is known, [C, C]; the reserved ids have none."""
    diagonal = np.ones(catalogue)
    diagonal[:FIRST] = 0
    return sp.diags(diagonal, format="csr")
