"""Place of new items among known ones, in lists of the whole catalogue."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor


class CataloguePlacement(NamedTuple):
    """Place of new items among known ones, in deviations of an entity's scores of known items around their mean.

    A new item of standardized score z stands at the lower one of two places: `offset` + `scale` sign(z) log(1 + |z|)
    from the entity's tenth known item, and z + `lift`, where known items of that z stand. The first one bounds what
    known items lose at the top of lists; the second keeps lists that go on, or have few known items left, from being
    full of new ones. It is not in force where `lift` is infinite.
    """

    scale: float
    offset: float
    lift: float = math.inf

    def place(self, z: Tensor, tenth: Tensor) -> Tensor:
        """Place standardized scores [u, N], given the standardized score [u, 1] of each entity's tenth known item."""
        return place_scores(z, tenth, *self)


def place_scores(
    z: Tensor, tenth: Tensor, scale: float | Tensor, offset: float | Tensor, lift: float | Tensor
) -> Tensor:
    """Place standardized scores [u, N] as `CataloguePlacement` does; each number may be one of each item [N]."""
    behind = tenth + offset + scale * z.sign() * z.abs().log1p()
    return behind.minimum(z + lift)
