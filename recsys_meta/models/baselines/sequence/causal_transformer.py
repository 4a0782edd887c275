"""Causal transformer over item sequences, as pure functions of its parameters (Kang & McAuley 2018, pre-norm, 1 head).

Sequences are padded on the right and positions are counted from the first row. A row attends to itself and to earlier
rows only, so that padding needs no mask. Items share one table with the output: a score is state . item.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys_meta.core.types import FIRST, Params
from recsys_meta.models.functional.regularization import dropout

SCALE = 0.02
"""Standard deviation of initial weights."""


def init_transformer(catalogue: int, dims: int, blocks: int, length: int, generator: torch.Generator) -> Params:
    """Initialize the item table "items" [C, D] (reserved ids 0), "positions" [L, D] and the weights of each block."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * SCALE

    params = {"items": normal(catalogue, dims), "positions": normal(length, dims)}
    params["items"][:FIRST] = 0
    for b in range(blocks):
        params |= {
            f"{b}.query_key_value": normal(dims, 3 * dims),
            f"{b}.output": normal(dims, dims),
            f"{b}.hidden": normal(dims, dims),
            f"{b}.hidden_bias": torch.zeros(dims),
            f"{b}.residual": normal(dims, dims),
            f"{b}.residual_bias": torch.zeros(dims),
            **_init_norm(f"{b}.attention_norm", dims),
            **_init_norm(f"{b}.network_norm", dims),
        }
    return params | _init_norm("norm", dims)


def _init_norm(name: str, dims: int) -> Params:
    return {f"{name}.weight": torch.ones(dims), f"{name}.bias": torch.zeros(dims)}


def encode_sequences(
    params: Params, item: Tensor, blocks: int, rate: float = 0.0, generator: torch.Generator | None = None
) -> Tensor:
    """Encode item ids [T, S], S at most L, to states [T, S, D]: row s depends on rows 0 to s only.

    Computed in the type of "positions". With a generator, units are dropped at `rate`.
    """
    positions = params["positions"]
    vectors = F.embedding(item, params["items"]).to(positions.dtype)
    x = dropout(vectors * vectors.shape[2] ** 0.5 + positions[: item.shape[1]], rate, generator)
    for b in range(blocks):
        query, key, value = (_norm(params, f"{b}.attention_norm", x) @ params[f"{b}.query_key_value"]).chunk(3, 2)
        # With a dimension for the head, without which there is no fused kernel.
        attended = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None], is_causal=True)[:, 0]
        x = x + dropout(attended @ params[f"{b}.output"], rate, generator)
        hidden = _norm(params, f"{b}.network_norm", x) @ params[f"{b}.hidden"] + params[f"{b}.hidden_bias"]
        output = dropout(torch.relu(hidden), rate, generator) @ params[f"{b}.residual"] + params[f"{b}.residual_bias"]
        x = x + dropout(output, rate, generator)
    return _norm(params, "norm", x)


def _norm(params: Params, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], params[f"{name}.weight"], params[f"{name}.bias"])
