"""Learners by name. A new learner is one file here and one line in the dictionary."""

from __future__ import annotations

from typing import Any

from recsys_meta.learners.bernoulli import Bernoulli
from recsys_meta.learners.blend import ClickBlend
from recsys_meta.learners.choice import Choice
from recsys_meta.learners.cvar import Cvar
from recsys_meta.learners.din import Din
from recsys_meta.learners.flagship import Flagship
from recsys_meta.learners.maml import Maml
from recsys_meta.learners.meta_embedding import MetaEmbedding
from recsys_meta.learners.mwuf import Mwuf

LEARNERS: dict[str, type[Any]] = {
    "flagship": Flagship,
    "click-blend": ClickBlend,
    "bernoulli": Bernoulli,
    "choice": Choice,
    "maml": Maml,
    "meta-embedding": MetaEmbedding,
    "mwuf": Mwuf,
    "cvar": Cvar,
    "din": Din,
}
"""Each is a `predictor.Learner`, made from its own `Config`."""
