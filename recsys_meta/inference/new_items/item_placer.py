"""Placing of new items for one model: its projection, fitted when first needed, and features that are encoded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recsys_meta.core.errors import DataError
from recsys_meta.core.feature_tensors import encode_raw
from recsys_meta.core.schema import FeatureField
from recsys_meta.core.types import FIRST, IntArray
from recsys_meta.inference.new_items.content_columns import ContentColumns
from recsys_meta.inference.new_items.known_content import KnownContent
from recsys_meta.inference.new_items.new_item_block import NewItemBlock, build_block
from recsys_meta.inference.new_items.probe_entities import probe_requests
from recsys_meta.inference.new_items.relevance_choices import RelevanceChoices
from recsys_meta.inference.new_items.score_projection import ScoreProjection, fit_projection
from recsys_meta.inference.new_items.stored_items import Evidence, StoredItem
from recsys_meta.inference.requests.entity import EntityRequest, RawFeatures
from recsys_meta.models.bundle import Bundle
from recsys_meta.models.functional.embeddings import catalogue_features
from recsys_meta.models.new_items.content_form import PLAIN_FORM
from recsys_meta.models.new_items.content_profiles import ContentProfiles, ContentValues, Rows

MOST_FITTED, MOST_COLUMNS, LEAST_COLUMNS = 512, 128, 16
"""Columns of content that a regression is fitted on, and those that are left of them for answers: most and least."""

MOST_CONTENT, MOST_TABLE = 1 << 23, 1 << 22
"""Numbers of the items' content in these columns, and of the table that each answer reads, about, from which on there
are fewer of them."""

MOST_TASTES = 32
"""Coordinates of taste."""

ROWS = 2000
"""Items that are encoded at once: making a tensor of lists holds the interpreter's lock."""

PLACES = 64
"""Numbers of an item's place, by which similar items are found."""


@dataclass(frozen=True)
class EncodedItems:
    """Features of N items, encoded for one model: name -> ids [N, L] or numbers [N]; revisions by name of the item."""

    items: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    features: Mapping[str, Tensor] = field(default_factory=dict)


class ItemPlacer:
    """Places new items for one model. `score`: scores [T, C] of its own items for T entities. May be shared by
    threads."""

    def __init__(
        self, bundle: Bundle, names: Sequence[str], score: Callable[[Sequence[EntityRequest]], Tensor]
    ) -> None:
        self._bundle, self._names, self._score = bundle, names, score
        self._encoded = EncodedItems()

    @property
    def columns(self) -> ContentColumns:
        """The encoding of content, as the projection reads it. Raises what the model raises."""
        return self._fitted[0]

    @property
    def projection(self) -> ScoreProjection:
        """The projection, fitted to the scores of probes. Raises what the model raises."""
        return self._fitted[1]

    @cached_property
    def _fitted(self) -> tuple[ContentColumns, ScoreProjection]:
        label_range = self._bundle.schema.label_range
        requests = probe_requests(self._names, self._bundle.popularity, label_range[1] if label_range else 1.0)
        scores = self._score(requests)
        if not bool(torch.isfinite(scores).all()):
            raise DataError("the model's scores are not finite")
        features = catalogue_features(self._bundle.params)
        fitted, left = column_counts(len(self._names))
        columns = ContentColumns.fit(features, fitted)
        content = columns.encode({k: v[FIRST:] for k, v in features.items()}, len(self._names))
        projection = fit_projection(scores, content, self._bundle.popularity, MOST_TASTES, PLACES, left)
        return columns.reduced(projection.reduction), projection

    @cached_property
    def known(self) -> KnownContent:
        """Content of the model's own items, and what was chosen for new ones."""
        features = {k: v[FIRST:] for k, v in catalogue_features(self._bundle.params).items()}
        values = ContentValues.fit(features, named_items(self._bundle))
        groups = ContentProfiles(values, PLAIN_FORM).groups
        return KnownContent(
            values,
            self.columns.encode(features, len(self._names)),
            np.asarray(self._bundle.popularity[FIRST:].numpy()),
            RelevanceChoices.read(self._bundle.about, groups),
        )

    def encode(self, items: Sequence[StoredItem]) -> dict[str, Tensor]:
        """Encode the features of N items: name -> ids [N, L] or numbers [N]. What this model cannot read is left out:
        it may have been stored for another one. Items that were encoded before are not encoded again."""
        known, before = self._encoded.items, self._encoded.features
        rows = [known.get(item.name, (-1, -1)) for item in items]
        new = [i for i, (item, row) in enumerate(zip(items, rows, strict=True)) if row[0] != item.revision]
        fresh = self._encode_fresh([items[i].features for i in new])
        position = torch.tensor([row for _, row in rows], dtype=torch.int64)
        if new:
            offset = len(known)
            position[new] = torch.arange(offset, offset + len(new))
        features = {}
        for name, values in fresh.items():
            stacked = join_features(before[name], values) if name in before else values
            features[name] = stacked[position]
        self._encoded = EncodedItems({item.name: (item.revision, i) for i, item in enumerate(items)}, features)
        return features

    def _encode_fresh(self, rows: Sequence[RawFeatures]) -> dict[str, Tensor]:
        fields, vocab = self._bundle.schema.item_features, self._bundle.vocab
        parts = [
            encode_raw(
                fields, vocab, "item", [_readable(fields, self._bundle, row) for row in rows[start : start + ROWS]]
            )
            for start in range(0, max(len(rows), 1), ROWS)
        ]
        return {name: reduce(join_features, [part[name] for part in parts]) for name in parts[0]}

    def place(self, items: Sequence[StoredItem], features: Mapping[str, Tensor], evidence: Evidence) -> NewItemBlock:
        """Place items by their encoded features and their first events. Raises what the model raises."""
        content = self.columns.encode(features, len(items))
        names = [item.name for item in items]
        if self._bundle.schema.objective != "ranking":
            return build_block(self.projection, names, content, evidence)
        return build_block(self.projection, names, content, evidence, self.known, self._rows(names, features))

    def _rows(self, names: Sequence[str], features: Mapping[str, Tensor]) -> Rows:
        """Features of new items as rows of values, with links to and from the model's own."""
        values, vocab = self.known.values, self._bundle.vocab.values
        own_ids = {}
        for name in values.links:
            position = vocab[f"item.{name}"].get_indexer(pd.Index(list(names), dtype="str"))
            own_ids[name] = np.where(position >= 0, position + FIRST, 0)
        return values.rows(features, own_ids)


def column_counts(items: int) -> tuple[int, int]:
    """Return how many columns of content a regression over items is fitted on, and to how many it is reduced."""
    size = max(items, 1)
    fitted, left = (
        max(LEAST_COLUMNS, min(most, numbers // size))
        for most, numbers in ((MOST_FITTED, MOST_CONTENT), (MOST_COLUMNS, MOST_TABLE))
    )
    return fitted, left


def named_items(bundle: Bundle) -> dict[str, IntArray]:
    """Find which of a model's items each padded id of a feature names, by feature: positions, -1 for none."""
    vocab = bundle.vocab.values
    fields = [f.name for f in bundle.schema.item_features if f"item.{f.name}" in vocab]
    return {
        name: np.concatenate([np.full(FIRST, -1), vocab["item"].get_indexer(vocab[f"item.{name}"])]) for name in fields
    }


def join_features(first: Tensor, second: Tensor) -> Tensor:
    """Put ids [N, L] or numbers [N] of items one below the other; the narrower ones are padded."""
    if first.dim() == 1:
        return torch.cat([first, second])
    width = max(first.shape[1], second.shape[1])
    return torch.cat([torch.nn.functional.pad(t, (0, width - t.shape[1])) for t in (first, second)])


def _readable(fields: Sequence[FeatureField], bundle: Bundle, features: RawFeatures) -> RawFeatures:
    """Leave out features that the model does not have, and numbers that are none."""
    names = {f.name: f for f in fields}
    known = {name: value for name, value in features.items() if name in names}
    numbers = [f for f in fields if f.kind == "numeric" and f.name in known]
    bad = {f.name for f in numbers if not _is_number(f, bundle, known[f.name])}
    return {name: value for name, value in known.items() if name not in bad}


def _is_number(one: FeatureField, bundle: Bundle, value: object) -> bool:
    try:
        encode_raw([one], bundle.vocab, "item", [{one.name: value}])
    except (DataError, ValueError, TypeError):
        return False
    return True
