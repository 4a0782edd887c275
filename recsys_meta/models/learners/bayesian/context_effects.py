"""Effects of the context of rows: an additive effect on the logit, factors, and the inputs of a hidden layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recsys_meta.core.types import PAD, FloatArray, Interactions, Params
from recsys_meta.models.functional.embeddings import embed_fields
from recsys_meta.models.learners.bayesian.factorization_data import FeatureFields

FACTOR_SCALE, HIDDEN_SCALE = 0.03, 0.3
"""Standard deviations of initial factors, and of initial inputs of the hidden layer."""


def init_context(
    fields: FeatureFields, effects: FloatArray, dims: int, hidden: int, generator: torch.Generator
) -> Params:
    """Initialize tables "effect" [V, 1], from the effects [P] of a regression, and "context" [V, dims + hidden], and
    the hidden layer; no parameters where rows have no context."""
    if not fields.table:
        return {}
    tables = torch.randn(len(effects), dims + hidden, generator=generator)
    tables *= torch.cat([torch.full((dims,), FACTOR_SCALE), torch.full((hidden,), HIDDEN_SCALE)])
    params = {**fields.bags("effect", torch.from_numpy(effects)[:, None]), **fields.bags("context", tables)}
    if hidden:
        params["hidden_bias"] = 0.5 * torch.randn(hidden, generator=generator)
        params["hidden_weight"] = 0.05 * torch.randn(hidden, generator=generator)
    return params


def context_effect(body: Params, rows: Interactions, hidden: int) -> tuple[Tensor, Tensor] | None:
    """Effect of the context on every entity's logit [T, R], and its factors [T, R, D]; None without context fields."""
    fields = _context_fields(body, rows)
    if not fields:
        return None
    shape = rows.item.shape
    effect = torch.stack(embed_fields(body, "effect", fields)).sum(0).reshape(shape)
    both = torch.stack(embed_fields(body, "context", fields)).sum(0)
    both = both.reshape(*shape, both.shape[1])
    dims = both.shape[2] - hidden
    if hidden:
        effect = effect + (both[..., dims:] + body["hidden_bias"]).relu() @ body["hidden_weight"]
    return effect, both[..., :dims]


def _context_fields(body: Params, rows: Interactions) -> dict[str, Tensor]:
    """Context fields of all rows, flattened over tasks; a field that the rows lack is missing in each."""
    fields = {}
    for key in sorted(k for k in body if k.startswith("effect.") and not k.endswith(".knots")):
        numeric = key.endswith(".weight")
        name = key.removeprefix("effect.").removesuffix(".weight" if numeric else "")
        values = rows.context.get(name)
        if values is None:
            values = rows.label.new_full(rows.item.shape, math.nan) if numeric else torch.full_like(rows.item, PAD)
        fields[name] = values.reshape(-1) if numeric else values.reshape(-1, 1)
    return fields
