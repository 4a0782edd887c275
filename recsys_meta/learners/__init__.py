"""Learners by name. A new learner is one file here and one line in the dictionary."""

from __future__ import annotations

from typing import Any

from recsys_meta.learners.flagship import Flagship
from recsys_meta.learners.maml import Maml

LEARNERS: dict[str, type[Any]] = {
    "flagship": Flagship,
    "maml": Maml,
}
"""Each is a `predictor.Learner`, made from its own `Config`."""
