"""Matching network (Vinyals et al. 2016): an item is scored by attention over the rows of the support.

    score_i = z0 . e_i + s sum_n a(i, n) r_n,     a(i, .) = softmax over n of t cos(f(e_i), g(e_n))

f and g are learned linear maps, r the residuals. In a ranking all residuals are 1 and the sum would be 1 for every
item: there the score is the log of the mean of exp(t cos) over the rows, a kernel density of what was met.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.types import Params, State
from recsys_meta.models.functional.masking import MASKED_LOGIT
from recsys_meta.models.learners.amortized.support_encoder import (
    SCORE_FLOATS,
    EncodedRows,
    SupportEncoder,
    SupportEncoderConfig,
)


class MatchingNetwork(SupportEncoder[SupportEncoderConfig]):
    """The learner that this module describes."""

    name: ClassVar[str] = "matching"
    Config: ClassVar[type[SupportEncoderConfig]] = SupportEncoderConfig

    def init_method(self, generator: torch.Generator) -> Params:
        eye, noise = torch.eye(self.config.width), 0.05
        maps = [eye + noise * torch.randn(eye.shape, generator=generator) for _ in range(2)]
        return {
            "rate.match": torch.zeros(()),
            "log_sharpness": torch.ones(()),
            "query_map": maps[0],
            "key_map": maps[1],
        }

    def encode(self, body: Params, rows: EncodedRows) -> State:
        """z is the start; key [T, S, V] the normalised rows, value [T, S] their residuals, row [T, S] what each counts
        for in the attention, 0 where there is none."""
        key = functional.normalize(rows.vectors @ body["key_map"], dim=2) * rows.mask[:, :, None]
        return {"z": rows.start, "key": key, "value": rows.residual, "row": rows.mask.to(key.dtype)}

    def pair_scores(self, body: Params, state: State, e: Tensor) -> Tensor:
        base = super().pair_scores(body, state, e)
        tasks, slots = state["row"].shape
        if not slots:
            return base
        query = functional.normalize(e @ body["query_map"], dim=-1)
        chunk = max(1, SCORE_FLOATS // (slots * max(1, tasks)))
        parts = [self._attend(body, state, part) for part in torch.split(query, chunk, -2)]
        return base + body["rate.match"].exp() * torch.cat(parts, 1)

    def _attend(self, body: Params, state: State, query: Tensor) -> Tensor:
        """Attention [T, N] of normalised queries, [N, V] or [T, N, V]; 0 for a task without rows."""
        pattern = "nv,tsv->tns" if query.dim() == 2 else "tnv,tsv->tns"
        row, total = state["row"][:, None], state["row"].sum(1)[:, None]
        is_empty, has_rows = row == 0, total > 0
        logits = body["log_sharpness"].exp() * torch.einsum(pattern, query, state["key"])
        logits = (logits + row.masked_fill(is_empty, 1.0).log()).masked_fill(is_empty, MASKED_LOGIT)
        if self.config.objective == "ranking":
            density = torch.logsumexp(logits, 2) - total.masked_fill(~has_rows, 1.0).log()
            return torch.where(has_rows, density, torch.zeros_like(density))
        return (torch.softmax(logits, 2) * state["value"][:, None]).sum(2) * has_rows
