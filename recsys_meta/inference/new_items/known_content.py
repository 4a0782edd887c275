"""Content of a model's own items, to which new ones are compared, and the choices that were made for new items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from torch import Tensor

from recsys_meta.core.types import FIRST, FloatArray, IntArray
from recsys_meta.inference.new_items.relevance_choices import RelevanceChoices
from recsys_meta.inference.new_items.stored_items import ItemEvidence
from recsys_meta.models.new_items.content_profiles import ContentProfiles, ContentValues, Rows

REFERENCE_ITEMS = 512
"""Known items, at most, that new ones are compared with as if these were new too."""


@dataclass(frozen=True)
class KnownContent:
    """Content of M known items: values of their features, content [M, K] in few columns, and counts [M] of their
    events; and choices for new ones."""

    values: ContentValues
    content: Tensor
    counts: FloatArray
    choices: RelevanceChoices

    @cached_property
    def profiles(self) -> ContentProfiles:
        """The values in the form that was chosen."""
        return ContentProfiles(self.values, self.choices.form)

    @cached_property
    def positions(self) -> IntArray:
        """Positions of the reference items, ascending."""
        count = len(self.counts)
        return np.sort(np.random.default_rng(0).permutation(count)[:REFERENCE_ITEMS])

    @cached_property
    def reference(self) -> Rows:
        """Rows of the reference items, by group, as if they were new."""
        return self.profiles.reference(self.positions)

    def read(self, features: Mapping[str, Tensor], own_ids: Mapping[str, IntArray]) -> Rows:
        """Read features of N new items; see `ContentValues.rows`."""
        return self.values.rows(features, own_ids)

    def targets(self, rows: Rows) -> Rows:
        """Rows [R + N, V] of the reference items and new ones, by group."""
        new = self.profiles.new(rows)
        return {group: sp.vstack([self.reference[group], matrix]).tocsr() for group, matrix in new.items()}

    def shared_entities(self, evidence: Sequence[ItemEvidence | None]) -> sp.csr_matrix | None:
        """Cosines [M, N] of the entities of known items and the first ones of N new ones; None where there are none."""
        histories = [(j, h) for j, one in enumerate(evidence) if one is not None for h in one.histories]
        if not histories:
            return None
        item = np.concatenate([np.asarray(h, np.int64) for _, h in histories]) - FIRST
        new = np.repeat([j for j, _ in histories], [len(h) for _, h in histories])
        entities = np.bincount([j for j, _ in histories], minlength=len(evidence))
        weight = 1 / np.sqrt(np.maximum(self.counts[item], 1) * np.maximum(entities[new], 1))
        shape = len(self.counts), len(evidence)
        return sp.csr_matrix((weight.astype(np.float32), (item, new)), shape=shape)
