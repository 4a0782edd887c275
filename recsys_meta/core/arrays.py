"""Arrays and padded ids as readers and data sets have them; tensors of the same are in `types`.

Ids of items and of categorical values are *padded*: 0 is padding, 1 is "unknown", real values start at 2, so a
catalogue of n items has n + 2 rows and a table indexed by them needs no offset. Nothing here imports torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

PAD, UNKNOWN, FIRST = 0, 1, 2
"""Padded ids: padding, a value outside the vocabulary, and the first real value."""

IntArray = npt.NDArray[np.integer[Any]]
FloatArray = npt.NDArray[np.floating[Any]]
