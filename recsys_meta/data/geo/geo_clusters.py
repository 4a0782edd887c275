"""Clustering of places into cities by their coordinates, greedily by visits.

Places are grouped into the cells of a fine grid. The cell with the most visits around it becomes the centre of a city
and takes all cells within the radius; visits count less with distance and not at all beyond the radius. This repeats
with the cells that remain until none is left. Finally each place is assigned to its nearest centre. The result does
not depend on the order of the places.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from recsys_meta.core.arrays import FloatArray, IntArray

Points = npt.NDArray[np.float64]

EARTH_KM = 6371.0
_CELLS_PER_RADIUS = 4
"""Number of grid cells along one radius."""


@dataclass(frozen=True)
class CityClusters:
    """Centres of K cities in degrees, lat [K] and lon [K], and the city [n] of each place, -1 without coordinates."""

    lat: FloatArray
    lon: FloatArray
    city: IntArray

    @property
    def names(self) -> list[str]:
        """Name of each city, its coordinates: '40.749,-73.988'. They are distinct for radii of 1 km or more."""
        return [f"{a:.3f},{b:.3f}" for a, b in zip(self.lat, self.lon, strict=True)]


def cluster_cities(lat: FloatArray, lon: FloatArray, visits: IntArray, radius_km: float) -> CityClusters:
    """Cluster n places into cities of about `radius_km`.

    lat, lon [n] in degrees, NaN where unknown; visits [n]: number of visits of each place.
    """
    valid = np.flatnonzero(~(np.isnan(lat) | np.isnan(lon)))
    # Sorted by value, so that rounding of the sums does not depend on the order of the places.
    valid = valid[np.lexsort((visits[valid], lon[valid], lat[valid]))]
    city = np.full(len(lat), -1)
    if not len(valid):
        return CityClusters(np.zeros(0), np.zeros(0), city)
    cell = _grid_cells(lat[valid], lon[valid], radius_km / _CELLS_PER_RADIUS)
    place_weight = visits[valid].clip(min=1e-9)  # above zero, so that places without visits get a city too
    cell_weight = np.bincount(cell, place_weight).astype(np.float64)
    share = place_weight / cell_weight[cell]
    cell_centre: Points = np.column_stack([np.bincount(cell, share * x[valid]) for x in (lat, lon)])
    chosen_cells = _choose_centres(_on_sphere(cell_centre), cell_weight, _chord_length(radius_km))
    city_centre: Points = cell_centre[chosen_cells]
    _, nearest = cKDTree(_on_sphere(city_centre)).query(_on_sphere(np.column_stack([lat[valid], lon[valid]])))
    nonempty, city[valid] = np.unique(nearest, return_inverse=True)
    return CityClusters(city_centre[nonempty, 0], city_centre[nonempty, 1], city)


def _grid_cells(lat: FloatArray, lon: FloatArray, size_km: float) -> IntArray:
    """Return the number of the cell [n] of each point, in a grid of cells about `size_km` wide and high."""
    step = np.degrees(size_km / EARTH_KM)
    row = np.floor(lat / step)
    across = step / np.cos(np.radians(np.clip((row + 0.5) * step, -89, 89)))
    cells = np.column_stack([row, np.floor(lon / across)])
    cell: IntArray = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)
    return cell


def _on_sphere(degrees: Points) -> Points:
    """Convert latitudes and longitudes [n, 2] in degrees to points [n, 3] of the unit sphere."""
    lat, lon = np.radians(degrees).T
    points: Points = np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    return points


def _chord_length(km: float) -> float:
    """Convert a distance along the ground to the straight distance between two points of the unit sphere."""
    return float(2 * np.sin(min(km / EARTH_KM, np.pi) / 2))


def _choose_centres(points: Points, weight: Points, reach: float) -> list[int]:
    """Choose centres among n cells greedily by the weight of free cells within `reach`; return their numbers.

    points [n, 3] of the unit sphere, weight [n], `reach` the straight distance up to which a centre takes cells.
    """
    tree = cKDTree(points)
    near = tree.sparse_distance_matrix(tree, reach, output_type="coo_matrix")
    edges = csr_matrix((1 - (near.data / reach) ** 2, (near.row, near.col)), shape=near.shape)
    edges.setdiag(1)
    free_weight, free = edges @ weight, np.ones(len(weight), bool)
    queue = [(-w, i) for i, w in enumerate(free_weight)]
    heapq.heapify(queue)
    centres = []
    while queue:
        negative_weight, i = heapq.heappop(queue)
        if not free[i]:
            continue
        if -negative_weight > free_weight[i]:
            # The entry is stale: a centre chosen since it was pushed took some of the cells around this one.
            heapq.heappush(queue, (-free_weight[i], i))
            continue
        centres.append(i)
        members = edges.indices[edges.indptr[i] : edges.indptr[i + 1]]
        members = members[free[members]]
        free[members] = False
        member_edges = edges[members]
        member_weight = np.repeat(weight[members], np.diff(member_edges.indptr))
        np.subtract.at(free_weight, member_edges.indices, member_weight * member_edges.data)
    return centres
