"""Areas of the places that a model knows, to try it out on where entities have items of their own.

A bundle does not say which entity a place belonged to, so an area is a place that many went to and what is near.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recsys_meta.core.schema import LATITUDE, LONGITUDE
from recsys_meta.inference.insight.item_groups import allowed_popularity
from recsys_meta.inference.recommender import Recommender

RADIUS_KM = 15.0
"""Distance of the places of an area from its centre, at most."""

_APART = 4  # radii between the centres of two areas, at least
_FEWEST = 5  # places of an area
_KM_PER_DEGREE = 111.2


@dataclass(frozen=True)
class MapArea:
    """Places (ids) around one of them, the nearest first, with their coordinates in degrees; without coordinates where
    the model knows none."""

    centre: int
    items: tuple[int, ...]
    points: tuple[tuple[float, float], ...] = ()


def map_areas(recommender: Recommender, areas: int = 6, places: int = 60) -> list[MapArea]:
    """Select areas around the most popular places, far from one another; one of the most popular places where these
    have no coordinates. Empty where the model knows no places."""
    features, popularity = recommender.catalog.features, allowed_popularity(recommender)
    if LATITUDE not in features or LONGITUDE not in features:
        order = torch.argsort(popularity, descending=True, stable=True)[:places]
        items = [i for i in order.tolist() if popularity[i] > -torch.inf]
        return [MapArea(items[0], tuple(items))] if items else []
    points = torch.stack([features[LATITUDE], features[LONGITUDE]], 1).double()
    popularity = popularity.masked_fill(points.isnan().any(1), -torch.inf)
    found: list[MapArea] = []
    while len(found) < areas and popularity.max() > -torch.inf:
        centre = int(popularity.argmax())
        km = _distances(points, points[centre]).nan_to_num(torch.inf)
        near = [i for i in torch.argsort(km, stable=True)[:places].tolist() if km[i] <= RADIUS_KM]
        if len(near) >= _FEWEST:
            found.append(MapArea(centre, tuple(near), tuple((lat, lon) for lat, lon in points[near].tolist())))
        popularity = popularity.masked_fill(km <= _APART * RADIUS_KM, -torch.inf)
    return found


def _distances(points: Tensor, centre: Tensor) -> Tensor:
    """Distances [C] in kilometres of points [C, 2] from one, in degrees; exact enough for an area."""
    delta = points - centre
    delta[:, 1] = (delta[:, 1] + 180) % 360 - 180
    delta[:, 1] *= torch.cos(torch.deg2rad(centre[0]))
    return delta.square().sum(1).sqrt() * _KM_PER_DEGREE
