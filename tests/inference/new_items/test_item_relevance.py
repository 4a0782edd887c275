"""Relevance of new items, and their places among known ones: by content, by who liked them, behind the tenth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys_meta.core.types import FIRST
from recsys_meta.inference.new_items.known_histories import KEPT, KnownLevels
from recsys_meta.inference.new_items.relevance_choices import (
    EVENT_BINS,
    BinChoices,
    RelevanceChoices,
    event_bin,
)
from recsys_meta.inference.new_items.stored_items import ItemEvidence, StoredItem
from recsys_meta.inference.requests.entity import EntityRequest, Interaction
from recsys_meta.models.new_items.catalogue_placement import CataloguePlacement
from recsys_meta.models.new_items.content_form import ContentForm
from recsys_meta.models.new_items.content_profiles import ALL_FEATURES, ContentProfiles, ContentValues
from tests.inference.new_items.test_placing import flagship, held_out


def values_of(ids: list[list[int]]) -> ContentValues:
    return ContentValues.fit({"tags": torch.tensor(ids)}, {})


def test_what_new_items_share_with_a_history_is_what_counts():
    known = values_of([[2, 3], [4, 5], [6, 0]])
    profiles = ContentProfiles(known, ContentForm())
    rows = profiles.new(known.rows({"tags": torch.tensor([[2, 3], [4, 9], [1, 0]])}, {}))
    similar = (profiles.known["tags"] @ rows["tags"].T).toarray()
    assert similar[0, 0] == pytest.approx(1) and similar[1, 1] == pytest.approx(0.5**0.5)
    assert not similar[:, 2].any()  # a value that no known item has says nothing
    assert similar[2, 0] == similar[0, 1] == 0


def test_smoothing_puts_items_of_few_values_behind_those_of_many():
    known = values_of([[2, 3, 4, 5], [2, 0, 0, 0], [6, 7, 8, 9]])
    lead = []
    for smooth in (0.0, 4.0):
        profiles = ContentProfiles(known, ContentForm(1.0, 1.0, smooth))
        rows = profiles.new(known.rows({"tags": torch.tensor([[2, 3, 4, 5], [2, 0, 0, 0]])}, {}))
        similar = (profiles.known["tags"] @ rows["tags"].T).toarray()
        lead.append(similar[0, 0] / similar[1, 1])
    assert lead[0] == pytest.approx(1) and lead[1] > 2


def test_items_that_name_one_another_are_linked_either_way():
    cites = torch.tensor([[3, 0], [0, 0], [5, 0], [0, 0]])  # the first names the second, the third names one to come
    positions = np.array([-1, -1, 0, 1, 2, -1])
    values = ContentValues.fit({"cites": cites}, {"cites": positions})
    rows = values.rows({"cites": torch.tensor([[4, 0], [1, 0], [5, 0]])}, {"cites": np.array([0, 5, 0])})["cites"]
    to_come = 4 + 5  # the column of an id that names no known item is behind those of the four
    # It names the third; the third names it; it names what the third names.
    assert [row.indices.tolist() for row in rows] == [[2], [2, to_come], [to_come]]
    assert [sorted(row.indices.tolist()) for row in values.known["cites"]] == [[0, 1], [0, 1], [2, to_come], []]


def test_years_are_no_links_where_items_have_numbers_for_names():
    years = torch.full((100, 1), FIRST)
    positions = np.concatenate([np.full(FIRST, -1), [7]])
    assert not ContentValues.fit({"year": years}, {"year": positions}).links


def test_levels_are_those_of_what_lists_may_hold():
    scores = torch.arange(40, dtype=torch.float32)[None]
    unmet = np.ones((1, 40), bool)
    unmet[0, 30:] = False
    levels = KnownLevels.of(scores, unmet)
    assert levels.tenth.item() == 30 - KEPT and levels.mean.item() == pytest.approx(14.5)
    few = np.zeros((1, 40), bool)
    few[0, :3] = True
    assert KnownLevels.of(scores, few).tenth.item() == 0
    assert KnownLevels.of(scores, np.zeros((1, 40), bool)).tenth.item() == 30  # nothing is left: all of them


def test_events_have_choices_of_their_own():
    assert [event_bin(n) for n in (0, 1, 2, 3, 7, 19, 20, 500)] == [0, 1, 1, 2, 3, 3, 4, 4]
    choices = RelevanceChoices(
        ContentForm(2.0, 0.8, 1.0),
        [BinChoices({"tags": 0.5, "taste": 0.5}, {"taste": (0.1, 0.2)}, CataloguePlacement(0.25, -0.5))],
    )
    again = RelevanceChoices.read({"new_items": choices.to_json()}, ["tags"])
    assert again == choices and again.of(len(EVENT_BINS)) == choices.bins[0]
    assert RelevanceChoices.read({}, [ALL_FEATURES, "a", "b"]).of(0).weights.keys() >= {ALL_FEATURES, "regression"}


def test_new_items_stand_behind_the_tenth_known_one_that_was_not_met():
    less, items, _, _ = held_out("ease")
    more = less.with_items(items)
    requests = [EntityRequest(events=[Interaction(n) for n in less.catalog.names[i : i + 12]]) for i in range(8)]
    entities = [more.read_support(request) for request in requests]
    lists = more.lists.top_k_batch(more.scores(more.adapt(entities), entities), 30, entities)
    gone = {item.name for item in items}
    assert any(one.item in gone for row in lists for one in row)
    assert not any(one.item in gone for row in lists for one in row[:KEPT])


def test_an_entitys_history_says_where_new_items_stand_whichever_entities_are_beside_it():
    less, items, _, _ = held_out("ease")
    more = less.with_items(items)
    entities = [
        more.read_support(EntityRequest(events=[Interaction(n) for n in less.catalog.names[i : i + 3]]))
        for i in range(6)
    ]
    state = more.adapt(entities)
    whole = more.scores(state, entities)
    for n, entity in enumerate(entities):
        alone = more.scores({name: leaf[n : n + 1] for name, leaf in state.items()}, [entity])
        assert torch.allclose(alone[0], whole[n], atol=1e-5)
    size = len(less.catalog.names) + FIRST
    assert not torch.allclose(whole[0, size:], more.scores(state)[0, size:])


def test_who_liked_a_new_item_moves_it_for_those_with_the_same_items():
    base = flagship()
    ids = base.catalog.ids
    liked = ids["i3"]
    tastes = base.tastes([base.read_support(EntityRequest(events=[Interaction("i3")]))]).expand(5, -1)
    evidence = {"a": ItemEvidence(5, 0.0, tastes, [[liked]] * 5)}
    more = base.with_items([StoredItem("a"), StoredItem("b")], evidence)
    lead = []
    for name in ("i3", "i30"):
        entity = more.read_support(EntityRequest(events=[Interaction(name)]))
        scores = more.scores(more.adapt([entity]), [entity])[0]
        known = scores[FIRST : more.catalog.ids["a"]]
        lead.append(float((scores[more.catalog.ids["a"]] - scores[more.catalog.ids["b"]]) / known.std()))
    assert lead[0] > lead[1]


def test_a_mark_changes_with_features_and_with_who_liked_an_item():
    base = flagship()
    empty = torch.zeros(0, 0)
    marks = {
        base.with_items([StoredItem("a")], {"a": ItemEvidence(1, 0.0, empty, [[item]])}).catalog.mark
        for item in (FIRST, FIRST + 1)
    }
    assert len(marks) == 2
