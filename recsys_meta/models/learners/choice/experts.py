"""Two experts over the features of candidates, and the gradient of their softmax in an entity's weights.

E = 2 experts: one for items new to the actor, one for items visited before. Shapes: x [T, R, K, F] scaled features of
candidates, row [T, R, G] scaled features of the row alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys_meta.core.types import Params, State
from recsys_meta.models.functional.catalogue_features import ITEM_COLUMNS, ROW_COLUMNS, CatalogueFeatures
from recsys_meta.models.functional.choice_features import CANDIDATE_FEATURES, ROW_FEATURES, VISITED
from recsys_meta.models.functional.interpolation import support_size_weights
from recsys_meta.models.functional.masking import MASKED_LOGIT

EXPERTS = 2
KNOTS = (0, 8, 32, 128, 512, 2048)
"""Support sizes, in rows, at which weights have values of their own."""
SIZE_BLIND_MASK = torch.tensor([0.0 if "size" in name or "rows" in name else 1.0 for name in ROW_FEATURES])
"""Mask [G] of the row features that do not depend on the support's size."""


def interpolate_by_size(size: Tensor, knots: int) -> Tensor:
    """Weights [T, K] of the first K = `knots` of KNOTS for supports of size [T] rows; ones where there is a single
    knot."""
    return support_size_weights(size, KNOTS[:knots])


def init_experts(aware: bool, split: bool, hidden: int, bonus: int, rate: float, generator: torch.Generator) -> Params:
    """Fresh parameters, with which every logit is near 0.

    aware: weights by support size; split: an expert for each kind of item; hidden, bonus: widths of the nets, 0 for
    none; rate: step sizes at the start.
    """
    sizes, kinds = len(KNOTS) if aware else 1, EXPERTS if split else 1
    width = len(CANDIDATE_FEATURES) + len(ROW_FEATURES)
    params = {
        "weight": torch.zeros(kinds, len(CANDIDATE_FEATURES)),
        "weight_by_size": torch.zeros(sizes, kinds, len(CANDIDATE_FEATURES)),
        "bonus_by_size": torch.zeros(sizes),
        "log_step": torch.full((sizes, kinds, len(CANDIDATE_FEATURES)), rate).log(),
        "trust": torch.zeros(len(KNOTS)),
    }
    if hidden:
        params |= {
            "net.inner": torch.randn(kinds, width, hidden, generator=generator) * (2 / width) ** 0.5,
            "net.bias": torch.zeros(kinds, hidden),
            "net.outer": torch.randn(kinds, hidden, generator=generator) * 0.01,
        }
    if bonus:
        params |= {
            "bonus.inner": torch.randn(len(ROW_FEATURES), bonus, generator=generator) * len(ROW_FEATURES) ** -0.5,
            "bonus.bias": torch.zeros(bonus),
            "bonus.outer": torch.randn(bonus, generator=generator) * 0.01,
        }
    return params


def scale_features(body: Params, values: Tensor, kind: str = "feature") -> Tensor:
    """Standardize values by the centre and the spread stored under "<kind>.centre" and "<kind>.spread"."""
    return (values - body[f"{kind}.centre"]) / body[f"{kind}.spread"]


def is_revisit(body: Params, x: Tensor) -> Tensor:
    """Mask [T, R, K] of the candidates that the actor visited before, from scaled features."""
    return x[..., VISITED] * body["feature.spread"][VISITED] + body["feature.centre"][VISITED] > 0.5


def expert_logits(body: Params, state: State, x: Tensor, row: Tensor) -> Tensor:
    """Logits [T, R, K] of candidates under a state's weights [T, E, F] and bonus [T]."""
    revisit = is_revisit(body, x)
    bonus = _visit_bonus(body, state, row)
    each = torch.einsum("trkf,tef->trke", x, state["weight"])
    if "net.inner" in body:
        each = each + _net(body, x, row)
    logits = each[..., 0] if each.shape[3] == 1 else torch.where(revisit, each[..., 1], each[..., 0])
    return logits + torch.where(revisit, bonus[..., None], 0.0)


def _visit_bonus(body: Params, state: State, row: Tensor) -> Tensor:
    """Bonus [T, R], or [T, 1], of items visited before."""
    bonus = state["bonus"][:, None]
    if "bonus.inner" in body:
        bonus = bonus + torch.tanh(row @ body["bonus.inner"] + body["bonus.bias"]) @ body["bonus.outer"]
    return bonus


def catalogue_logits(body: Params, state: State, features: CatalogueFeatures, row: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [T, R, C] of every item as one new to the actor, and logits [T, R, H] of the items of the history; each
    expert computes what its kind of items needs."""
    width = len(CANDIDATE_FEATURES)
    x = scale_features(body, features.visited)
    visit_logits = torch.einsum("trhf,tf->trh", x, state["weight"][:, -1])
    visit_logits = visit_logits + _visit_bonus(body, state, row)[..., None]
    by_item, by_pair = list(ITEM_COLUMNS), list(ROW_COLUMNS)
    centre, spread = body["feature.centre"], body["feature.spread"]
    items = (features.items - centre[by_item]) / spread[by_item]
    weight = state["weight"][:, 0]
    # Scaled weights instead of scaled features: there are as many of the latter as rows times items.
    pair_weight = weight[:, by_pair] / spread[by_pair]
    constant = (items @ weight[:, by_item, None])[..., 0] - (pair_weight @ centre[by_pair])[:, None]
    logits = torch.einsum("trcp,tp->trc", features.pairs, pair_weight) + constant[:, None]
    if "net.inner" in body:
        inner, bias, outer = body["net.inner"], body["net.bias"], body["net.outer"]
        from_row = row @ inner[-1, width:] + bias[-1]
        visit_logits = visit_logits + torch.relu(x @ inner[-1, :width] + from_row[:, :, None]) @ outer[-1]
        pair_inner = inner[0, by_pair] / spread[by_pair, None]
        from_row = row @ inner[0, width:] + bias[0] - centre[by_pair] @ pair_inner
        units = features.pairs @ pair_inner + (items @ inner[0, by_item])[:, None] + from_row[:, :, None]
        logits = logits + torch.relu(units) @ outer[0]
    return logits, visit_logits


def _net(body: Params, x: Tensor, row: Tensor) -> Tensor:
    """Logits [T, R, K, E] of a net with one hidden layer for each expert. The features of the row alone are multiplied
    once for all candidates."""
    kinds, _, units = body["net.inner"].shape
    inner = body["net.inner"].transpose(0, 1).reshape(-1, kinds * units)
    features = x.shape[3]
    row_part = row @ inner[features:] + body["net.bias"].reshape(-1)
    active = torch.relu(x @ inner[:features] + row_part[:, :, None, :])
    return (active.reshape(*x.shape[:3], kinds, units) * body["net.outer"]).sum(4)


def expert_step(body: Params, state: State, x: Tensor, row: Tensor, mask: Tensor, counts: Tensor) -> Tensor:
    """Negative gradient [T, E, F] of the mean softmax loss of rows whose first candidate was taken, in the weights.

    mask [T, R, K]: the candidates; counts [T, R]: the rows that count. Zero where none does.
    """
    probability = torch.softmax(expert_logits(body, state, x, row).masked_fill(~mask, MASKED_LOGIT), 2)
    choice = torch.zeros_like(probability)
    choice[..., 0] = 1.0
    weight = counts / counts.sum(1, keepdim=True).clamp(min=1)
    residual = (choice - probability) * weight[:, :, None]
    if state["weight"].shape[1] == 1:
        return torch.einsum("trk,trkf->tf", residual, x)[:, None]
    revisit = is_revisit(body, x)
    kinds = torch.stack([torch.where(revisit, 0.0, residual), torch.where(revisit, residual, 0.0)], 1)
    return torch.einsum("terk,trkf->tef", kinds, x)
