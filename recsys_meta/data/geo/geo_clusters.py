"""Cities from coordinates: places that lie together, the busiest first.

Places are put into small cells. The cell with the most visits around it (the farther they are the less they count, and
nothing beyond the radius) becomes the centre of a city and takes all cells there; then the next of what is left, and
so on. In the end each place belongs to its nearest centre. The order of the places does not matter.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from recsys_meta.core.types import FloatArray, IntArray

Points = npt.NDArray[np.float64]

EARTH_KM = 6371.0
_CELLS_PER_RADIUS = 4
"""Cells in a radius."""


@dataclass(frozen=True)
class CityClusters:
    """lat, lon [K] of the centres, and the city [n] of each place, -1 for one without coordinates."""

    lat: FloatArray
    lon: FloatArray
    city: IntArray

    @property
    def names(self) -> list[str]:
        """'40.749,-73.988' and so on, distinct from a radius of 1 km on."""
        return [f"{a:.3f},{b:.3f}" for a, b in zip(self.lat, self.lon, strict=True)]


def cluster_cities(lat: FloatArray, lon: FloatArray, visits: IntArray, radius_km: float) -> CityClusters:
    """Cities of about this radius from places [n] in degrees (NaN: not known) with so many visits [n]."""
    known = np.flatnonzero(~(np.isnan(lat) | np.isnan(lon)))
    # In an order of their own, so that sums do not depend on that of the file.
    known = known[np.lexsort((visits[known], lon[known], lat[known]))]
    city = np.full(len(lat), -1)
    if not len(known):
        return CityClusters(np.zeros(0), np.zeros(0), city)
    cell = _grid_cells(lat[known], lon[known], radius_km / _CELLS_PER_RADIUS)
    visited = visits[known].clip(min=1e-9)  # a place that nobody went to yet lies somewhere too
    weight = np.bincount(cell, visited).astype(np.float64)
    share = visited / weight[cell]
    centre: Points = np.column_stack([np.bincount(cell, share * x[known]) for x in (lat, lon)])
    chosen: Points = centre[_choose_centres(_on_sphere(centre), weight, _chord_length(radius_km))]
    _, nearest = cKDTree(_on_sphere(chosen)).query(_on_sphere(np.column_stack([lat[known], lon[known]])))
    kept, city[known] = np.unique(nearest, return_inverse=True)
    return CityClusters(chosen[kept, 0], chosen[kept, 1], city)


def _grid_cells(lat: FloatArray, lon: FloatArray, size_km: float) -> IntArray:
    """The cell [n] of each point in a grid of about square cells."""
    step = np.degrees(size_km / EARTH_KM)
    row = np.floor(lat / step)
    across = step / np.cos(np.radians(np.clip((row + 0.5) * step, -89, 89)))
    cells = np.column_stack([row, np.floor(lon / across)])
    cell: IntArray = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)
    return cell


def _on_sphere(degrees: Points) -> Points:
    """Points [n, 3] of the unit sphere from lat, lon [n, 2]."""
    lat, lon = np.radians(degrees).T
    points: Points = np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    return points


def _chord_length(km: float) -> float:
    """The straight distance between points of the unit sphere so far apart along the ground."""
    return float(2 * np.sin(min(km / EARTH_KM, np.pi) / 2))


def _choose_centres(points: Points, weight: Points, reach: float) -> list[int]:
    """Which cells are centres: always the one with the most untaken weight around it."""
    tree = cKDTree(points)
    near = tree.sparse_distance_matrix(tree, reach, output_type="coo_matrix")
    edges = csr_matrix((1 - (near.data / reach) ** 2, (near.row, near.col)), shape=near.shape)
    edges.setdiag(1)
    around, free = edges @ weight, np.ones(len(weight), bool)
    queue = [(-w, i) for i, w in enumerate(around)]
    heapq.heapify(queue)
    chosen = []
    while queue:  # a step for each city, not for each place
        known, i = heapq.heappop(queue)
        if not free[i]:
            continue
        if -known > around[i]:  # some of what was near it has been taken since
            heapq.heappush(queue, (-around[i], i))
            continue
        chosen.append(i)
        taken = edges.indices[edges.indptr[i] : edges.indptr[i + 1]]
        taken = taken[free[taken]]
        free[taken] = False
        lost = edges[taken]
        np.subtract.at(around, lost.indices, np.repeat(weight[taken], np.diff(lost.indptr)) * lost.data)
    return chosen
