"""Numbers that follow from ids alone: a split by them stays as it is when data grow."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

from recsys_meta.core.types import FloatArray

_BYTES = 6  # 48 bits are exact in a float64


def hash_shares(ids: Iterable[str], key: str) -> FloatArray:
    """Hash ids to numbers [n] in [0, 1), float64, that are as if drawn at random, independently for each key.

    Equal ids and keys have equal numbers, whatever else there is, on every machine.
    """
    secret = key.encode(errors="surrogatepass")
    digests = (blake2b(one.encode(errors="surrogatepass"), digest_size=_BYTES, key=secret).digest() for one in ids)
    return np.fromiter((int.from_bytes(d, "big") / 2 ** (8 * _BYTES) for d in digests), np.float64)
