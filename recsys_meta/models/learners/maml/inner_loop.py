"""The inner loop of MAML: scores under a state, their loss, and steps down its gradient, which is written out.

A state holds z [T, Z]; where the layers adapt, the leaves of `perceptron`; where item vectors adapt, the support's
items `rows.item` [T, S] (0: none) and the changes of their vectors, `rows.change` [T, S, V].
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.types import Interactions, Params, State
from recsys_meta.models.functional.losses import logistic_loss, softmax_loss, squared_error
from recsys_meta.models.functional.masking import mask_reserved_ids, mask_support_items, mask_unknown_items
from recsys_meta.models.functional.sampled_softmax import sampled_softmax_loss
from recsys_meta.models.functional.task_layers import FreshLayer
from recsys_meta.models.learners.maml import scorer
from recsys_meta.models.learners.maml.fixed_inputs import FixedInputs
from recsys_meta.models.learners.maml.perceptron import perceptron_of, start_perceptron
from recsys_meta.models.learners.maml.scorer import ScorerConfig


def item_scores(config: ScorerConfig, body: Params, state: State, item: Tensor) -> Tensor:
    """Scores [T, R] of items [T, R], with the changes of a task's own item vectors."""
    return _add_item_bias(config, body, item, scorer.pair_scores(config, body, state, _row_vectors(body, state, item)))


def shared_item_scores(config: ScorerConfig, body: Params, state: State, item: Tensor) -> Tensor:
    """Scores [T, N] of the same items [N] for all tasks, without the changes of a task's own item vectors."""
    e = functional.embedding(item, body["vectors"])
    return _add_item_bias(config, body, item, scorer.pair_scores(config, body, state, e))


def _row_vectors(body: Params, state: State, item: Tensor) -> Tensor:
    """Vectors [T, R, V] of items [T, R], with the changes of a task's own."""
    e = functional.embedding(item, body["vectors"])
    return e + _is_slot(state, item, e.dtype) @ state["rows.change"] if "rows.item" in state else e


def _is_slot(state: State, item: Tensor, dtype: torch.dtype) -> Tensor:
    """1 where an item [T, R] is that of a slot of the state, [T, R, S]."""
    return (item[:, :, None] == state["rows.item"][:, None, :]).to(dtype)


def _add_item_bias(config: ScorerConfig, body: Params, item: Tensor, scores: Tensor) -> Tensor:
    return scores + body["bias"][item] if config.item_bias else scores


def rank_catalogue(config: ScorerConfig, body: Params, state: State) -> Tensor:
    """Scores [T, C] of the whole catalogue."""
    scores = scorer.catalogue_scores(config, body, state)
    if "rows.item" not in state:
        return scores
    item = state["rows.item"]
    return scores.scatter(1, item, item_scores(config, body, state, item))


def catalogue_logits(config: ScorerConfig, body: Params, state: State) -> Tensor:
    """Logits [T, C] of a softmax over the catalogue; the reserved ids are masked."""
    return mask_reserved_ids(rank_catalogue(config, body, state))


def informative_rows(config: ScorerConfig, rows: Interactions) -> Interactions:
    """Rows that a support learns from: in a ranking those of known items; a rating or click counts without its item."""
    if config.objective != "ranking":
        return rows
    return mask_unknown_items(rows)


def inner_loss(
    config: ScorerConfig, body: Params, state: State, rows: Interactions, support: Interactions | None = None
) -> Tensor:
    """Loss [T] of each task. A full softmax leaves out the items of `support`, as they are not recommended again."""
    if config.objective == "ranking" and not config.negatives:
        scores = catalogue_logits(config, body, state)
        if support is not None:
            scores, rows = mask_support_items(scores, support.item * support.mask, rows)
        return softmax_loss(scores, rows)
    scores = item_scores(config, body, state, rows.item)
    if config.objective == "rating":
        return squared_error(scores, rows)
    if config.objective == "click":
        return logistic_loss(scores, rows)
    negatives, log_q = body["negatives"], body["log_q"]
    negative_scores = shared_item_scores(config, body, state, negatives)
    row_log_q = log_q[rows.item].masked_fill(~rows.mask, 0.0)
    return sampled_softmax_loss(scores, negative_scores, rows, log_q[negatives], row_log_q)


def descend(
    config: ScorerConfig,
    body: Params,
    state: State,
    rows: Interactions,
    rates: Mapping[str, Tensor],
    steps: int,
) -> State:
    """State after `steps` steps of gradient descent on the support loss of rows [T, S].

    rates: inner rate of each group that adapts ("entity", a number or [Z]; "head"; "rows"). Nothing here needs
    autograd; where it records, an outer gradient goes through the steps.
    """
    if not config.hidden:
        for _ in range(steps):
            state = _dot_step(config, body, state, rows, rates)
        return state
    return _descend_perceptron(config, body, state, rows, rates, steps)


def _dot_step(
    config: ScorerConfig, body: Params, state: State, rows: Interactions, rates: Mapping[str, Tensor]
) -> State:
    """State after one step of the dot product's z and, where they adapt, of the vectors of the support's items."""
    z, vectors = state["z"], body["vectors"]
    if config.objective == "ranking" and not config.negatives:
        return _catalogue_step(config, body, state, rows, rates)
    e = _row_vectors(body, state, rows.item)
    scores = _add_item_bias(config, body, rows.item, scorer.pair_scores(config, body, state, e))
    others = [shared_item_scores(config, body, state, body["negatives"])] if config.objective == "ranking" else []
    own, *other = score_gradient(config, body, rows, _row_weights(rows, e.dtype), scores, *others)
    gradient = torch.einsum("ts,tsv->tv", own, e)
    for delta in other:
        gradient = gradient + delta @ functional.embedding(body["negatives"], vectors)
    after = state | {"z": z - rates["entity"] * gradient}
    if "rows" in rates:
        slots = torch.einsum("ts,tsk->tk", own, _is_slot(state, rows.item, e.dtype)) * (state["rows.item"] > 0)
        after["rows.change"] = state["rows.change"] - rates["rows"] * slots[:, :, None] * z[:, None]
    return after


def _catalogue_step(
    config: ScorerConfig, body: Params, state: State, rows: Interactions, rates: Mapping[str, Tensor]
) -> State:
    """The step of a dot product under a softmax over the catalogue: its gradient is E_p[e] less the mean of e."""
    z, vectors = state["z"], body["vectors"]
    weight = _row_weights(rows, vectors.dtype)
    probability = torch.softmax(catalogue_logits(config, body, state), 1)
    if "rows" not in rates:
        mean = torch.einsum("ts,tsv->tv", weight, functional.embedding(rows.item, vectors))
        return state | {"z": z - rates["entity"] * ((probability @ vectors) * rows.mask.any(1, keepdim=True) - mean)}
    surplus = (probability * rows.mask.any(1, keepdim=True)).scatter_add(1, rows.item, -weight)  # [T, C]
    slots = surplus.gather(1, state["rows.item"]) * (state["rows.item"] > 0)
    gradient = surplus @ vectors + torch.einsum("tk,tkv->tv", slots, state["rows.change"])
    change = state["rows.change"] - rates["rows"] * slots[:, :, None] * z[:, None]
    return state | {"z": z - rates["entity"] * gradient, "rows.change": change}


def _descend_perceptron(
    config: ScorerConfig, body: Params, state: State, rows: Interactions, rates: Mapping[str, Tensor], steps: int
) -> State:
    """Steps of a perceptron. Sampled negatives are rows of every task, whose vectors no task adapts."""
    z, e, change = state["z"], functional.embedding(rows.item, body["vectors"]), state.get("rows.change")
    negatives = functional.embedding(body["negatives"], body["vectors"]) if config.objective == "ranking" else None
    count = rows.item.shape[1] + (0 if negatives is None else len(negatives))
    is_fixed = set(rates) == {"head"}
    network = perceptron_of(body, state)
    if "head" in rates:
        network = start_perceptron(body, len(z), count, steps, is_fixed=is_fixed)
    if negatives is not None and isinstance(network.item, FreshLayer) and network.item.is_dual:  # few rows: join them
        e, negatives = torch.cat([e, negatives.expand(len(e), *negatives.shape)], 1), None
    start, slot = e, _slots(state, rows.item, e) if change is not None else None
    bias, weight = _row_bias(config, body, rows), _row_weights(rows, e.dtype)
    fixed = FixedInputs.of(network, z, e) if is_fixed and negatives is None and steps else None
    scale = -rates["head" if "head" in rates else "entity"]  # all gradients are linear in that of the scores
    for step in range(steps):
        trace = network.trace(network.first(z, e, negatives) if fixed is None else fixed.outputs())
        scores = trace.scores if bias is None else trace.scores + bias
        gradient = _row_gradients(config, body, rows, weight, scores)
        deltas = network.backward(gradient * scale, trace)
        after = network if "head" not in rates else network.step_upper(trace, deltas)
        if fixed is not None:
            fixed = fixed.step(deltas.first, is_last=step == steps - 1)
        elif "head" in rates:
            after = after.step_first(z, e, negatives, deltas)
        if "entity" in rates:
            moved = network.entity.backward(deltas.first.sum(1, keepdim=True)).squeeze(1)
            z = z + (moved if "head" not in rates else moved * (rates["entity"] / rates["head"]))
        if slot is not None and change is not None and network.item is not None:
            moved = slot.transpose(1, 2) @ network.item.backward(deltas.first[:, : e.shape[1]])
            change = change + rates["rows"] / rates["head"] * moved * (state["rows.item"] > 0)[:, :, None]
            e = start + slot @ change
        network = after
    network = network if fixed is None else fixed.network(network)
    return state | {"z": z} | ({} if change is None else {"rows.change": change}) | network.leaves()


def _row_gradients(config: ScorerConfig, body: Params, rows: Interactions, weight: Tensor, scores: Tensor) -> Tensor:
    """Gradient [T, S + N] of the support loss in the scores of its rows and, after them, of shared negatives."""
    if config.objective != "ranking":
        return score_gradient(config, body, rows, weight, scores)[0]
    parts = torch.split(scores, [rows.item.shape[1], len(body["negatives"])], 1)
    return torch.cat(score_gradient(config, body, rows, weight, *parts), 1)


def _slots(state: State, item: Tensor, e: Tensor) -> Tensor:
    """1 where a row of e [T, R, V] is of the item of a slot, [T, R, S]; rows beyond item [T, S] are of none."""
    return functional.pad(_is_slot(state, item, e.dtype), (0, 0, 0, e.shape[1] - item.shape[1]))


def _row_bias(config: ScorerConfig, body: Params, rows: Interactions) -> Tensor | None:
    """Item biases [T, S + N] of the rows and of the shared negatives."""
    if not config.item_bias:
        return None
    own = body["bias"][rows.item]
    if config.objective != "ranking":
        return own
    return torch.cat([own, body["bias"][body["negatives"]].expand(len(own), -1)], 1)


def score_gradient(
    config: ScorerConfig,
    body: Params,
    rows: Interactions,
    weight: Tensor,
    scores: Tensor,
    negative_scores: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Gradient of the support loss [T] in the scores of its rows [T, S], each with its weight [T, S] in the mean, and
    in those of shared negatives [T, N] where a ranking samples them."""
    if config.objective == "rating":
        return (2 * (scores - rows.label) * weight,)
    if config.objective == "click":
        return ((torch.sigmoid(scores) - rows.label) * weight,)
    assert negative_scores is not None, "a ranking without negatives has its own step"
    log_q, negatives = body["log_q"], body["negatives"]
    logits = negative_scores - log_q[negatives]
    margin = logits.logsumexp(1)[:, None] - scores + log_q[rows.item].masked_fill(~rows.mask, 0.0)
    error = torch.sigmoid(margin) * weight
    return -error, error.sum(1, keepdim=True) * torch.softmax(logits, 1)


def _row_weights(rows: Interactions, dtype: torch.dtype) -> Tensor:
    """Weight [T, S] of each row in the mean over a task's rows."""
    return (rows.mask / rows.counts.clamp(min=1)[:, None]).to(dtype)
