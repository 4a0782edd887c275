"""Documents that the playground's script reads: a model, items, both lists and questions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from api.inference.loaded_model import LoadedModel
from recsys_meta.core.schema import ARRIVAL, LATITUDE, LONGITUDE, FeatureField
from recsys_meta.core.types import FIRST
from recsys_meta.inference.insight.active_elicitation import ElicitationItem
from recsys_meta.inference.insight.item_groups import describe_item, popular_groups
from recsys_meta.inference.insight.list_comparison import ComparedItem, ListComparison
from recsys_meta.inference.insight.map_areas import MapArea, map_areas
from recsys_meta.inference.insight.meeting_chance import first_scores
from recsys_meta.inference.recommender import Recommender

_MOST_VALUES = 100  # of a field that is chosen from a menu
_SET_ELSEWHERE = {LATITUDE, LONGITUDE, ARRIVAL.name}

Document = dict[str, Any]


def model_document(model: LoadedModel) -> Document:
    """Describe a model: its items, the labels of a like and of a dislike, fields of the newcomer and of the context,
    groups to begin with and, where entities have items of their own, areas of places."""
    recommender, schema = model.recommender, model.recommender.bundle.schema
    groups = [] if schema.home else popular_groups(recommender)
    areas = map_areas(recommender) if schema.home else []
    return {
        "model": {"name": model.name, "version": model.version},
        "kind": model.kind,
        "objective": schema.objective,
        "items": len(recommender.catalog.names),
        "labels": _labels(recommender),
        "features": _fields(recommender, "entity", schema.entity_features),
        "context": _fields(recommender, "context", schema.context),
        "actors": schema.actor is not None,
        "groups": [{"name": g.name, "items": item_documents(recommender, g.items)} for g in groups],
        "areas": [_area(recommender, area) for area in areas],
        "can_ask": schema.home is None,
    }


def item_documents(recommender: Recommender, items: Iterable[int]) -> list[Document]:
    """Describe items by their ids."""
    return [_item(recommender, recommender.catalog.item_name(item)) for item in items]


def comparison_document(recommender: Recommender, both: ListComparison) -> Document:
    """Describe both lists."""
    return {
        "adapted": [_compared(recommender, one) for one in both.adapted],
        "unadapted": [_compared(recommender, one) for one in both.unadapted],
        "support_size": both.support_size,
        "unknown_items": list(both.unknown_items),
    }


def question_documents(recommender: Recommender, questions: Sequence[ElicitationItem]) -> list[Document]:
    """Describe questions with the chance of a yes."""
    return [_item(recommender, one.item) | {"chance": one.probability} for one in questions]


def _item(recommender: Recommender, name: str) -> Document:
    catalog = recommender.catalog
    about = describe_item(recommender, catalog.ids[name]) if name in catalog.ids else ""
    return {"item": name, "title": catalog.titles.get(name), "about": about}


def _compared(recommender: Recommender, one: ComparedItem) -> Document:
    document: Document = _item(recommender, one.item)
    document |= {"rank": one.rank, "value": one.value, "other_rank": one.other_rank}
    if one.explanation is not None:
        events = one.explanation.attributions
        document["why"] = [_item(recommender, e.item) | {"label": e.label, "moved": e.score_change} for e in events]
    return document


def _labels(recommender: Recommender) -> Document:
    """The labels of a like and of a dislike; None for events that have none, and of a choice no dislike. Of ratings
    without a range they are the highest and the lowest that a newcomer is expected to give."""
    schema = recommender.bundle.schema
    match schema.objective:
        case "ranking":
            return {"like": None, "dislike": 0}
        case "choice":
            return {"like": None, "dislike": None}
        case _:
            scores = first_scores(recommender)[FIRST:]
            low, high = schema.label_range or (float(scores.min()), float(scores.max()))
            return {"like": high, "dislike": low}


def _fields(recommender: Recommender, side: str, fields: Iterable[FeatureField]) -> list[Document]:
    """Fields that can be set by a menu or as a number; others are left out."""
    documents: list[Document] = []
    for field in fields:
        values = recommender.bundle.vocab.values.get(f"{side}.{field.name}")
        if field.kind == "numeric" and field.name not in _SET_ELSEWHERE:
            documents.append({"name": field.name, "values": None})
        elif field.kind in ("categorical", "multi") and values is not None and 0 < len(values) <= _MOST_VALUES:
            documents.append({"name": field.name, "values": sorted(values.tolist(), key=_natural_key)})
    return documents


def _natural_key(text: str) -> tuple[float, str]:
    """Numbers by their value, before other texts."""
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text


def _area(recommender: Recommender, area: MapArea) -> Document:
    places = item_documents(recommender, area.items)
    for place, (lat, lon) in zip(places, area.points, strict=False):
        place |= {"lat": lat, "lon": lon}
    return {"centre": _item(recommender, recommender.catalog.item_name(area.centre)), "places": places}
