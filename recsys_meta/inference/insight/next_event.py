"""Prequential losses: how well the state before an event foretells it, beside the same entity's un-adapted state.

Each event is judged before it is learnt from (Dawid 1984, "The prequential approach"), so that nobody is asked anything
and no event is held back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys_meta.core.schema import Schema
from recsys_meta.core.types import FIRST, UNKNOWN
from recsys_meta.inference.insight.diagnostics import finite_or_none
from recsys_meta.inference.ranking.item_catalog import ItemCatalog
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EncodedEntity, EntityRequest, Interaction, QueryContext, RawFeatures
from recsys_meta.inference.requests.stored_events import StoredInteraction, merge_events
from recsys_meta.inference.requests.support_reader import is_valid_label


class NextEvent(NamedTuple):
    """An event of an entity, and what was stored of the entity before it."""

    features: RawFeatures
    before: Sequence[StoredInteraction]
    event: StoredInteraction


class NextEventLoss(NamedTuple):
    """Losses of an event under the state before it, and under the state of the entity without any event.

    For rankings and choices the loss is the negative log-probability of the item under a softmax of the scores over all
    items of the training that a list could hold, in nats; for clicks the log-loss, for ratings the squared error. None
    where there is none: the item is unknown to the model, hidden, disliked, was met before, or came after the training:
    where such items stand follows from their first events, and so from the judged one. `popular_rank`: the rank that
    the item had by popularity alone among all that a list could hold, for rankings and choices.
    """

    support_size: int
    loss: float | None = None
    loss_unadapted: float | None = None
    popular_rank: int | None = None


def next_event_losses(recommender: Recommender, cases: Sequence[NextEvent]) -> list[NextEventLoss]:
    """Judge the next events of some entities with one model; those of rankings in one batch.

    Raises DataError for features or a context that the model cannot read.
    """
    entities = [_read(recommender, case.features, case.before) for case in cases]
    objective = recommender.bundle.schema.objective
    if objective == "ranking":
        return _ranking_losses(recommender, entities, [case.event for case in cases])
    judge = _choice_loss if objective == "choice" else _row_loss
    return [judge(recommender, entity, case.event) for entity, case in zip(entities, cases, strict=True)]


def is_choice_of(schema: Schema, label: float) -> bool:
    """Return whether an event with a label says that its item was chosen: no dislike, and no list passed over."""
    if schema.objective == "ranking":
        return not schema.is_disliked(label)
    least = schema.positive
    if least is None:
        least = 0.5 if schema.objective == "click" else -math.inf
    return label >= least


def answers_list(schema: Schema, case: NextEvent) -> bool:
    """Return whether an event may answer a list: its item was chosen, and lists do not leave it out as met."""
    if not is_choice_of(schema, case.event.label):
        return False
    met = (e.item for e in case.before if is_valid_label(schema, e.label))
    return schema.home is not None or case.event.item not in met


def _read(recommender: Recommender, features: RawFeatures, events: Sequence[StoredInteraction]) -> EncodedEntity:
    return recommender.read_support(merge_events(recommender.reader, features, events, EntityRequest()))


def _without_events(entity: EncodedEntity) -> EncodedEntity:
    """Return an entity as before its first event, with its features and its own catalogue."""
    return replace(entity, items=(), labels=(), context=(), history=(), actor_items={}, dislikes=())


def _ranking_losses(
    recommender: Recommender, entities: Sequence[EncodedEntity], events: Sequence[StoredInteraction]
) -> list[NextEventLoss]:
    schema, items = recommender.bundle.schema, recommender.catalog.item_ids([event.item for event in events])
    losses = [NextEventLoss(entity.support_size) for entity in entities]
    hidden = {UNKNOWN, *recommender.catalog.hidden_ids.tolist()}
    indices = [
        i
        for i, (item, entity) in enumerate(zip(items, entities, strict=True))
        if item not in hidden and item not in entity.seen_items and not schema.is_disliked(events[i].label)
    ]
    if not indices:
        return losses
    known = [entities[i] for i in indices]
    item = torch.tensor([items[i] for i in indices])
    listable = _listable(known, recommender.catalog)
    scores = recommender.scores(recommender.adapt(known), known)
    scores_unadapted = recommender.scores(recommender.adapt([_without_events(entity) for entity in known]))
    size = FIRST + len(recommender.own_items)
    values = zip(
        _softmax_losses(scores[:, :size], listable[:, :size], item),
        _softmax_losses(scores_unadapted[:, :size], listable[:, :size], item),
        _ranks(recommender.catalog.popularity_scores.expand_as(scores), listable, item),
        strict=True,
    )
    for i, (loss, loss_unadapted, rank) in zip(indices, values, strict=True):
        losses[i] = NextEventLoss(entities[i].support_size, loss, loss_unadapted, rank)
    return losses


def _choice_loss(recommender: Recommender, entity: EncodedEntity, event: StoredInteraction) -> NextEventLoss:
    """Loss of a choice from the entity's own catalogue, to which the item belongs from this event on."""
    fields = recommender.reader.fields
    choice = _interaction(recommender, event)
    context = QueryContext(fields.row_values(choice.context), choice.actor)
    features = {choice.item: fields.item_values(choice.context)}
    entity, query = recommender.queries.encode(entity, context, features)
    result = NextEventLoss(entity.support_size)
    if (
        entity.catalog is None
        or len(entity.catalog.names) < 2
        or not is_choice_of(recommender.bundle.schema, event.label)
    ):
        return result
    item = torch.tensor([entity.catalog.ids[choice.item]])
    listable = torch.ones(1, query.catalog_size, dtype=torch.bool)
    listable[:, :FIRST] = False
    scores = recommender.score_catalogs(recommender.adapt([entity]), query)
    scores_unadapted = recommender.score_catalogs(recommender.adapt([_without_events(entity)]), query)
    popular = recommender.catalog.fallback_scores(entity)[None]
    (loss,), (loss_unadapted,) = (_softmax_losses(values, listable, item) for values in (scores, scores_unadapted))
    (rank,) = _ranks(popular, listable, item)
    return result._replace(loss=loss, loss_unadapted=loss_unadapted, popular_rank=rank)


def _row_loss(recommender: Recommender, entity: EncodedEntity, event: StoredInteraction) -> NextEventLoss:
    """Loss of the label of a click or a rating."""
    result = NextEventLoss(entity.support_size)
    clicks = recommender.bundle.schema.objective == "click"
    if not clicks and event.item not in recommender.own_items:
        return result
    fields = recommender.reader.fields
    row = event.item, fields.row_values(_interaction(recommender, event).context)
    rows, label = recommender.queries.rows(entity, [row]), torch.tensor([[event.label]])
    loss_of = F.binary_cross_entropy_with_logits if clicks else F.mse_loss
    loss, loss_unadapted = (
        finite_or_none(float(loss_of(recommender.score_rows(recommender.adapt([case]), rows), label)))
        for case in (entity, _without_events(entity))
    )
    return result._replace(loss=loss, loss_unadapted=loss_unadapted)


def _interaction(recommender: Recommender, event: StoredInteraction) -> Interaction:
    fields = recommender.reader.fields
    context = fields.readable_values(event.context) if event.context else None
    return fields.interaction(event.item, event.label, event.time, context)


def _listable(entities: Sequence[EncodedEntity], catalog: ItemCatalog) -> Tensor:
    """Mask [T, C] of the items that a list of each entity could hold."""
    mask = torch.ones(len(entities), catalog.size(), dtype=torch.bool)
    mask[:, :FIRST] = False
    mask[:, catalog.hidden_ids] = False
    pairs = [(task, item) for task, entity in enumerate(entities) for item in entity.seen_items]
    if pairs:
        tasks, items = torch.tensor(pairs).T
        mask[tasks, items] = False
    return mask


def _softmax_losses(scores: Tensor, listable: Tensor, item: Tensor) -> list[float | None]:
    """Negative log-probabilities of items [T] under softmaxes of scores [T, C] over what is listable [T, C]; None for
    items beyond C."""
    log_p = torch.log_softmax(scores.masked_fill(~listable, -math.inf), 1)
    values = log_p.gather(1, item.clamp(max=scores.shape[1] - 1)[:, None])[:, 0]
    return [finite_or_none(-value) for value in values.masked_fill(item >= scores.shape[1], -math.inf).tolist()]


def _ranks(scores: Tensor, listable: Tensor, item: Tensor) -> list[int]:
    """Ranks of items [T] by scores [T, C] among what is listable [T, C], ties by id."""
    own = scores.gather(1, item[:, None])
    earlier = torch.arange(scores.shape[1]) < item[:, None]
    ahead = (scores > own) | ((scores == own) & earlier)
    ranks: list[int] = (1 + (ahead & listable).sum(1)).tolist()
    return ranks
