"""New items among the scores of a model's own: right where scores follow from content, fair, the same in any batch."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch

from recsys_meta.core.types import FIRST
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.held_out_items import without_items
from recsys_meta.inference.new_items import item_placer
from recsys_meta.inference.new_items.new_item_block import build_block
from recsys_meta.inference.new_items.score_projection import fit_projection
from recsys_meta.inference.new_items.stored_items import ItemEvidence, StoredItem
from recsys_meta.inference.ranking.list_builder import ListRequest
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction
from recsys_meta.models.baselines import BASELINES
from recsys_meta.models.bundle import make_bundle
from tests.fixtures import trained_recommenders
from tests.fixtures.simulated_datasets import ranking_world

PROBES, ITEMS, DIMS = 60, 200, 6


def linear_world(noise: float = 0.0, popularity: float = 0.0):
    """Scores of probes that are products of vectors, which follow from content up to noise; counts; and the vectors."""
    g = torch.Generator().manual_seed(0)
    content = torch.randn(ITEMS, DIMS, generator=g)
    counts = torch.cat([torch.zeros(FIRST), torch.exp(torch.randn(ITEMS, generator=g)) * 50]).round()
    weights = torch.randn(DIMS, 4, generator=g)
    items = content @ weights + noise * torch.randn(ITEMS, 4, generator=g)
    users = torch.randn(PROBES, 4, generator=g)
    scores = users @ items.T + popularity * counts[FIRST:].log1p()
    return torch.nn.functional.pad(scores, (FIRST, 0)), content, counts, weights, users


def fitted(**world):
    scores, content, counts, weights, users = linear_world(**world)
    return fit_projection(scores, content, counts, 16, 16), scores, weights, users


def test_scores_that_follow_from_content_are_found():
    projection, scores, weights, users = fitted()
    fresh = torch.randn(5, DIMS, generator=torch.Generator().manual_seed(9))
    block = build_block(projection, list("abcde"), fresh, {})
    truth = users @ (fresh @ weights).T
    assert torch.allclose(block.extend(scores)[:, -5:], truth, atol=0.15)
    assert torch.equal(block.extend(scores)[:, :-5], scores)
    assert projection.explained > 0.99


def test_content_of_many_columns_is_reduced_to_what_scores_follow_from():
    scores, _, counts, _, users = linear_world()
    g = torch.Generator().manual_seed(1)
    content = torch.randn(ITEMS, 40, generator=g) * torch.linspace(3, 0.1, 40)  # the last ones vary least
    weights = torch.zeros(40, 4)
    weights[-DIMS:] = torch.randn(DIMS, 4, generator=g) * 10
    scores = torch.nn.functional.pad(users @ (content @ weights).T, (FIRST, 0))
    whole, reduced = (fit_projection(scores, content, counts, 0, 16, most) for most in (40, 8))
    assert whole.reduction is None and reduced.reduction.shape == (40, 8) and reduced.table.shape[1] == 8 + 2
    fresh = torch.randn(5, 40, generator=g)
    new = [build_block(p, list("abcde"), p.reduce(fresh), {}) for p in (whole, reduced)]
    assert torch.allclose(new[0].extend(scores), new[1].extend(scores), atol=0.05)
    assert torch.allclose(new[0].popularity, new[1].popularity, atol=1e-3)
    assert reduced.explained > 0.98


def test_items_without_content_are_average_ones():
    projection, scores, _, _ = fitted(popularity=1.0)
    block = build_block(projection, ["a", "b"], torch.zeros(2, DIMS), {})
    new = block.extend(scores)[:, -2:]
    assert torch.equal(new[:, 0], new[:, 1])
    assert [block.basis(n) for n in (0, 1)] == [("popularity", 0)] * 2
    low, high = scores[:, FIRST:].amin(1), scores[:, FIRST:].amax(1)
    assert bool(((new[:, 0] > low) & (new[:, 0] < high)).all())


def test_popularity_follows_the_first_events():
    projection, scores, _, _ = fitted(popularity=1.0)
    nobody = torch.zeros(0, projection.rank)
    evidence = {
        "many": ItemEvidence(20, 0.001, nobody),
        "few": ItemEvidence(1, 0.001, nobody),
        "none": ItemEvidence(0, 0.5, nobody),
    }
    names = ["many", "few", "fresh", "none"]
    block = build_block(projection, names, torch.zeros(4, DIMS), evidence)
    assert (block.popularity[:-1] > block.popularity[1:]).all()
    new = block.extend(scores)[:, -4:]
    assert bool((new[:, 0] > new[:, 1]).all())
    assert list(block.events) == [20, 1, 0, 0]


def test_a_number_of_events_among_events_that_are_not_known_says_nothing_of_popularity():
    projection, _, _, _ = fitted(popularity=1.0)
    evidence = {"a": ItemEvidence(20, None, torch.zeros(0, projection.rank))}
    block = build_block(projection, ["a", "b"], torch.zeros(2, DIMS), evidence)
    assert block.popularity[0] == block.popularity[1]
    assert list(block.events) == [20, 0]


def test_who_liked_it_says_who_likes_it():
    projection, scores, _, users = fitted(noise=1.0)
    liked_by = users[:, 0] > 1
    evidence = {"a": ItemEvidence(5, 0.0, projection.tastes(scores[liked_by][:5]))}
    block = build_block(projection, ["a", "b"], torch.zeros(2, DIMS), evidence)
    lead = (block.extend(scores)[:, -2] - block.extend(scores)[:, -1]) / scores[:, FIRST:].std(1)
    assert float(lead[liked_by].mean()) > float(lead.mean()) + 0.1
    assert float(lead[users[:, 0] < -1].mean()) < float(lead.mean())


@pytest.mark.parametrize("items", [0, 1, 2, 3])
def test_small_catalogues_and_flat_scores_do_no_harm(items):
    scores = torch.zeros(min(items, 2), FIRST + items)
    if not items:
        return
    projection = fit_projection(scores, torch.zeros(items, 0), torch.zeros(FIRST + items), 32, 64)
    block = build_block(projection, ["a"], torch.zeros(1, 0), {})
    assert bool(torch.isfinite(block.extend(scores)).all())


@cache
def held_out(baseline: str):
    """A recommender that knows all items but every fifth, those as they would be stored, and one that knows all."""
    data = ranking_world(entities=400, items=120, rows=25)
    held = np.arange(FIRST, data.catalogue)[::5]
    train = np.arange(300)

    def fit(some):
        predictor = BASELINES[baseline]()
        return Recommender(make_bundle(predictor, predictor.fit(some, train), some, EventIndex.of(some), train, {}))

    names, fields = data.vocab.values["item"], data.schema.item_features
    items = []
    for n, i in enumerate(held.tolist()):
        features = {}
        for field in fields:
            column = data.items[field.name]
            if column.numeric:
                features[field.name] = float(column.values[i])
            else:
                ids = column.values[column.indptr[i] : column.indptr[i + 1]]
                features[field.name] = [data.vocab.value(f"item.{field.name}", int(v)) for v in ids]
        items.append(StoredItem(names[i - FIRST], features, None, True, n + 1))
    return fit(without_items(data, held)), items, fit(data), data


def test_a_data_set_without_items_lacks_them_and_nothing_else():
    less, items, full, data = held_out("itemknn")
    gone = {item.name for item in items}
    kept = [name for name in data.vocab.values["item"] if name not in gone]
    assert less.catalog.names == kept
    counts = dict(zip(full.catalog.names, full.bundle.popularity[FIRST:].tolist(), strict=True))
    assert less.bundle.popularity[FIRST:].tolist() == [counts[name] for name in kept]
    for name, values in less.catalog.features.items():
        rows = [full.catalog.ids[one] for one in kept]
        assert torch.equal(values[FIRST:].nan_to_num(), full.catalog.features[name][rows].nan_to_num())


@pytest.mark.parametrize("baseline", ["itemknn", "ease", "blr"])
def test_new_items_are_in_lists_about_as_often_as_if_they_had_been_trained(baseline):
    less, items, full, _ = held_out(baseline)
    new = less.with_items(items)
    pairs = pairwise(less.catalog.names)
    requests = [EntityRequest(events=[Interaction(a), Interaction(b)]) for a, b in pairs]
    shares = []
    for one in (new, full):
        entities = [one.read_support(r) for r in requests]
        lists = one.lists.top_k_batch(one.scores(one.adapt(entities)), 20, entities)
        gone = {item.name for item in items}
        shares.append(np.mean([row.item in gone for rows in lists for row in rows]))
    assert 0.2 * shares[1] < shares[0] < 2.5 * shares[1]


@cache
def flagship():
    return Recommender(trained_recommenders.flagship())


def test_the_models_own_items_keep_their_scores():
    for base in (trained_recommenders.ranking(), flagship(), trained_recommenders.rating()):
        entity = base.read_support(EntityRequest(events=[Interaction("i3", 1.0), Interaction("i4", 1.0)]))
        before = base.scores(base.adapt([entity]))
        more = base.with_items([StoredItem("fresh"), StoredItem("i5", available=False), StoredItem("i6")])
        after = more.scores(more.adapt([entity]))
        assert torch.equal(after[:, : before.shape[1]], before)
        assert after.shape[1] == before.shape[1] + 1
        assert torch.equal(base.scores(base.adapt([entity])), before)
        listed = [one.item for one in more.lists.build(after[0], entity, ListRequest(1000)).items]
        assert "fresh" in listed and "i5" not in listed and "i6" in listed


def test_equal_items_are_ranked_alike_in_whichever_order_they_were_read():
    items = [StoredItem(f"new{n}") for n in range(9)]
    lists = []
    for order in (items, items[::-1]):
        model = flagship().with_items(order)
        entity = model.read_support(EntityRequest(events=[Interaction("i3")]))
        scores = model.scores(model.adapt([entity]))[0]
        lists.append([one.item for one in model.lists.build(scores, entity, ListRequest(1000)).items])
    assert lists[0] == lists[1]


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_an_entitys_scores_do_not_depend_on_the_batch(one_thread):
    for count in (1, 2, 300):
        one = flagship().with_items([StoredItem(f"new{n}") for n in range(count)])
        assert one.batch_invariant
        entities = [one.read_support(EntityRequest(events=[Interaction(f"i{n}")])) for n in range(7)]
        state = one.adapt(entities)
        whole = one.scores(state)
        for n in range(7):
            alone = one.scores({name: leaf[n : n + 1] for name, leaf in state.items()})
            assert torch.equal(alone[0], whole[n])


def test_ratings_of_new_items_are_not_stretched():
    base = trained_recommenders.rating()
    more = base.with_items([StoredItem("fresh")])
    entity = more.read_support(EntityRequest(events=[Interaction("i3", 1.0)]))
    scores = more.scores(more.adapt([entity]))[0]
    assert float(scores[FIRST:-1].min()) <= float(scores[-1]) <= float(scores[FIRST:-1].max())


def test_features_are_encoded_once(monkeypatch):
    base, items, _, _ = held_out("ease")
    encoded = []
    encode = item_placer.encode_raw

    def counted(fields, vocab, table, rows):
        if len(fields) > 1:  # a single one is tried out
            encoded.append(len(rows))
        return encode(fields, vocab, table, rows)

    monkeypatch.setattr(item_placer, "encode_raw", counted)
    base._placer._encoded = item_placer.EncodedItems()
    first = base.with_items(items)
    changed = [items[0]._replace(features={}, revision=99), *items[2:]]
    second = base.with_items(changed)
    assert encoded == [len(items), 1]
    rest = {item.name for item in items[2:]}
    rows = [[n for n, name in enumerate(one.catalog.names, FIRST) if name in rest] for one in (first, second)]
    assert len(rows[0]) == len(rows[1]) == len(rest)
    for name, values in second.catalog.features.items():
        before = first.catalog.features[name]
        assert torch.equal(values[rows[1]].nan_to_num(), before[rows[0]].nan_to_num())


def test_what_this_model_cannot_read_is_left_out():
    base, items, _, _ = held_out("ease")
    strange = StoredItem("x", {"shoe size": 44, **items[0].features}, None, True, 7)
    same = base.with_items([strange, items[0]._replace(name="y", revision=8)])
    entity = same.read_support(EntityRequest(events=[Interaction(base.catalog.names[0])]))
    scores = same.scores(same.adapt([entity]))[0]
    assert float(scores[-1]) == pytest.approx(float(scores[-2]))


def test_the_mark_tells_items_apart():
    base, items, _, _ = held_out("ease")
    marks = [
        base.catalog.mark,
        base.with_items(items).catalog.mark,
        base.with_items(items[:-1]).catalog.mark,
        base.with_items([*items[:-1], items[-1]._replace(title="T")]).catalog.mark,
        base.with_items([*items[:-1], items[-1]._replace(available=False)]).catalog.mark,
        base.with_items([*items, StoredItem(base.catalog.names[0], available=False)]).catalog.mark,
    ]
    assert marks[0] == base.with_items([]).catalog.mark == ""
    assert marks[2] == marks[4]  # a new item that is hidden is none
    assert len(set(marks)) == 5
    assert base.with_items(items).catalog.mark == marks[1]


def test_a_met_item_is_known_and_no_row():
    base, items, _, _ = held_out("ease")
    more = base.with_items(items)
    entity = more.read_support(EntityRequest(events=[Interaction(items[0].name), Interaction("never there")]))
    assert entity.items == ()
    assert entity.seen_items == {more.catalog.ids[items[0].name]}
    assert entity.unknown_items == ("never there",)


def test_similar_items_share_what_entities_think():
    less, items, _, data = held_out("ease")
    more = less.with_items(items)
    field = next(f for f in data.schema.item_features if f.kind != "numeric").name
    values = more.catalog.features[field]
    share, chance = [], []
    for item in range(FIRST, len(values)):
        ids = [i for _, i in more.similar_items(item, 5)]
        assert item not in ids and min(ids) >= FIRST
        own = set(values[item].tolist()) - {0}
        share += [bool(own & set(values[i].tolist())) for i in ids]
        chance += [bool(own & set(values[i].tolist())) for i in range(FIRST, len(values)) if i != item]
    assert np.mean(share) > 1.3 * np.mean(chance)
