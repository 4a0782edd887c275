"""Each event is judged by the state before it: the same numbers as by hand."""

import math

import pytest
import torch

from recsys_meta.core.types import FIRST
from recsys_meta.inference.insight.next_event import (
    NextEvent,
    NextEventLoss,
    answers_list,
    is_choice_of,
    next_event_losses,
)
from recsys_meta.inference.new_items.stored_items import StoredItem
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction, QueryContext
from recsys_meta.inference.requests.stored_events import StoredInteraction
from tests.fixtures import stub_predictors as choosing
from tests.fixtures import trained_recommenders as served

FEATURES = {"age": 33.0}


def event(item, label=1.0, time=9.0, **context):
    return StoredInteraction(f"{item} {time}", item, label, time, context or None)


def case(item, *before, label=1.0):
    return NextEvent(FEATURES, [event(name, time=float(n)) for n, name in enumerate(before)], event(item, label))


def by_hand(recommender, item, met, seen):
    """-log p of an item under the softmax of a list's scores, as the list of `met` would leave out `seen`."""
    entity = recommender.read_support(EntityRequest(FEATURES, [Interaction(name, 1.0) for name in met]))
    scores = recommender.scores(recommender.adapt([entity]))[0].double()
    ids = recommender.catalog.ids
    listed = [i for name, i in ids.items() if name not in seen]
    return float(scores[listed].exp().sum().log() - scores[ids[item]])


@pytest.mark.parametrize("of", [served.ranking, served.flagship, served.ensemble])
def test_rankings_are_judged_as_lists_are_made(of):
    made = of()
    recommender = made if isinstance(made, Recommender) else Recommender(made)
    cases = [case("i5"), case("i9", "i1", "i2"), case("i3", "i4", "i7", "i8")]
    for one, found in zip(cases, next_event_losses(recommender, cases), strict=True):
        met = [e.item for e in one.before]
        assert found.support_size == len(met)
        assert found.loss == pytest.approx(by_hand(recommender, one.event.item, met, met), rel=1e-4)
        assert found.loss_unadapted == pytest.approx(by_hand(recommender, one.event.item, [], met), rel=1e-4)
        order = sorted(recommender.catalog.ids.values(), key=lambda i: (-recommender.catalog.popularity_scores[i], i))
        seen = {recommender.catalog.ids[name] for name in met}
        left = [i for i in order if i not in seen]
        assert found.popular_rank == 1 + left.index(recommender.catalog.ids[one.event.item])
        assert (found.loss == found.loss_unadapted) is not bool(met)


def test_what_no_list_could_hold_has_no_loss():
    recommender = served.liking()
    before = [event("i1", 5.0, 1.0), event("i2", 1.0, 2.0)]
    told = [event("i1", 5.0), event("i2", 5.0), event("from nowhere", 5.0), event("i7", 2.0), event("i8", 5.0)]
    cases = [NextEvent({}, before, one) for one in told]
    *others, fine = next_event_losses(recommender, cases)
    assert others == [NextEventLoss(2)] * 4
    # Nor do these answer a list, but the choice of an item that the model does not know does: it was not listed.
    assert [answers_list(recommender.bundle.schema, one) for one in cases] == [False, False, True, False, True]
    assert fine.loss is not None and fine.popular_rank is not None


def test_hidden_items_and_new_ones_are_no_part_of_the_softmax():
    made = served.ranking()
    plain = made if isinstance(made, Recommender) else Recommender(made)
    first, *_, last = plain.catalog.names
    equipped = plain.with_items(
        [StoredItem(first, {}, available=False), StoredItem("new", {}), StoredItem("hidden", {}, available=False)]
    )
    cases = [case(last, "i5"), case(last, "i5", "new"), case(first, "i5"), case("new", "i5"), case("hidden")]
    judged, met_new, hidden, new, unknown = next_event_losses(equipped, cases)
    assert judged.loss == pytest.approx(by_hand(plain, last, ["i5"], ["i5", first]), rel=1e-4)
    assert judged.loss_unadapted == pytest.approx(by_hand(plain, last, [], ["i5", first]), rel=1e-4)
    assert met_new.loss == pytest.approx(judged.loss)
    assert hidden == NextEventLoss(1) and unknown == NextEventLoss(0)
    assert (new.loss, new.loss_unadapted) == (None, None)
    # Among popular items new ones have a place: lists by popularity would hold them.
    scores = equipped.catalog.popularity_scores
    left = [i for name, i in equipped.catalog.ids.items() if name not in (first, "i5")]
    place = equipped.catalog.ids["new"]
    assert new.popular_rank == 1 + sum((float(scores[i]), -i) > (float(scores[place]), -place) for i in left)


def test_of_ratings_new_items_have_no_loss_as_no_score():
    recommender = served.rating()
    recommender = recommender.with_items([StoredItem("new", {})])
    (judged,) = next_event_losses(recommender, [case("new", "i1", label=4.0)])
    assert (judged.loss, judged.loss_unadapted) == (None, None)


def test_a_second_rating_of_an_item_answers_no_list():
    schema = served.rating().bundle.schema
    again, other = (answers_list(schema, case(item, "i1", label=4.0)) for item in ("i1", "i2"))
    assert (again, other) == (False, True)


def test_ratings_are_judged_by_the_squared_error():
    recommender = served.rating()
    judged, unknown = next_event_losses(
        recommender, [case("i5", "i1", "i2", label=4.0), case("from nowhere", label=4.0)]
    )
    entity = recommender.read_support(EntityRequest(FEATURES, [Interaction("i1", 1.0), Interaction("i2", 1.0)]))
    rows = recommender.queries.rows(entity, [("i5", {})])
    assert judged.loss == pytest.approx((float(recommender.score_rows(recommender.adapt([entity]), rows)) - 4) ** 2)
    assert judged.loss_unadapted is not None and judged.loss_unadapted != judged.loss
    assert (judged.popular_rank, unknown.loss) == (None, None)


def test_clicks_are_judged_by_their_log_loss_in_their_context():
    recommender = Recommender(choosing.clicks())
    before = [event("p1", 1.0, 1.0, position=0, device="mobile")]
    far, near = (
        next_event_losses(recommender, [NextEvent({}, before, event("p2", 0.0, position=position))])[0]
        for position in (4, 0)
    )
    # Of two clicks and four others, and half a logit less for each position (see the stub).
    logit = math.log(2 / 4) + 0.3 + float(torch.linspace(-0.5, 0.5, 10)[2]) - 0.5 * 4
    assert far.loss == pytest.approx(math.log1p(math.exp(logit)), abs=1e-5)
    assert near.loss > far.loss and far.loss_unadapted < far.loss


def test_choices_are_judged_among_the_items_of_the_entity():
    recommender = Recommender(choosing.visits())
    before = [event(f"k{n}", 1.0, float(n), actor="u1", hour=12) for n in (0, 0, 1, 2)]
    last = event("k0", 1.0, 9.0, actor="u1", hour=12)
    (found,) = next_event_losses(recommender, [NextEvent({}, before, last)])
    entity = recommender.read_support(
        EntityRequest({}, [Interaction(e.item, 1.0, e.time, {"hour": 12}, "u1") for e in before])
    )
    entity, query = recommender.queries.encode(entity, QueryContext({"hour": 12}, "u1"))
    scores = recommender.score_catalog(recommender.adapt([entity]), query)[FIRST:]
    assert found.loss == pytest.approx(float(scores.logsumexp(0) - scores[entity.catalog.ids["k0"] - FIRST]), abs=1e-5)
    assert found.popular_rank == 1 and found.loss < found.loss_unadapted
    (first,) = next_event_losses(recommender, [NextEvent({}, [], last)])
    assert first == NextEventLoss(0), "nothing to choose from"


def test_what_says_that_an_item_was_chosen():
    clicks, stars = choosing.clicks().schema, served.liking().bundle.schema
    assert [is_choice_of(clicks, label) for label in (0.0, 1.0)] == [False, True]
    assert [is_choice_of(stars, label) for label in (0.0, 3.0, 4.0)] == [False, False, True]
    assert is_choice_of(served.rating().bundle.schema, -3.0)
