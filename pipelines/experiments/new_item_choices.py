"""Choices for new items on meta-validation: the form and the weights of signals of their relevance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sp

from recsys_meta.core.types import FloatArray
from recsys_meta.inference.new_items.item_relevance import EntityInputs, ItemRelevance
from recsys_meta.inference.new_items.new_item_block import NewItemBlock
from recsys_meta.inference.new_items.relevance_choices import (
    BY_EVENTS,
    POPULARITY,
    REGRESSION,
    BinChoices,
    RelevanceChoices,
)
from recsys_meta.models.new_items.content_form import PLAIN_FORM, ContentForm
from recsys_meta.models.new_items.content_profiles import ContentProfiles, ContentValues, Rows
from recsys_meta.models.new_items.signal_blend import FORMS, Quality, select_weights

LIFTS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Deviations, tried, by which new items stand above known ones of their relevance, but behind the best of these."""

Build = Callable[[RelevanceChoices], NewItemBlock]
"""Makes a block of new items by choices."""


def choose_form(values: ContentValues, rows: Rows, histories: sp.csr_matrix, quality: Quality) -> ContentForm:
    """Choose the form in which the content of new items, `rows` by feature, is best compared with histories [u, M]."""
    if not values.known:
        return PLAIN_FORM
    everyone = np.arange(histories.shape[0])
    qualities = []
    for form in FORMS:
        profiles = ContentProfiles(values, form)
        group = profiles.groups[0]
        similar = histories @ profiles.known[group] @ profiles.new(rows)[group].T
        qualities.append(quality(similar.toarray(), everyone))
    return FORMS[int(np.argmax(qualities))]


def choose_weights(
    build: Build, form: ContentForm, groups: Sequence[str], entities: EntityInputs, quality: Quality
) -> BinChoices:
    """Choose the weights of the signals for new items of about as many events as those of a block have, by the quality
    of their relevance for entities of validation; and find the moments of signals by events."""
    names = [*groups, REGRESSION, POPULARITY, *BY_EVENTS]
    first = RelevanceChoices(form, [BinChoices(dict.fromkeys(names, 1.0))])
    relevance = _relevance(build(first))
    raw = relevance.raw_signals(entities)
    count = len(relevance.reference)
    moments = {n: _moments(raw[i, :, count:]) for i, n in enumerate(relevance.names) if n in BY_EVENTS}
    moments = {name: one for name, one in moments.items() if one[1] > 1e-6}
    signals = _relevance(build(RelevanceChoices(form, [BinChoices(first.bins[0].weights, moments)])))
    z = signals.standardize(raw, entities.unmet[:, relevance.reference])[:, :, count:]
    weights = select_weights(z, quality)
    shares = {n: float(w) for n, w in zip(relevance.names, weights, strict=True) if w > 1e-3 * weights.max()}
    return BinChoices(shares, {name: one for name, one in moments.items() if name in shares})


def _relevance(block: NewItemBlock) -> ItemRelevance:
    if block.ranking is None:
        raise ValueError("only a ranking has relevance")
    return block.ranking.relevance


def _moments(values: FloatArray) -> tuple[float, float]:
    return float(values.mean()), float(values.std())
