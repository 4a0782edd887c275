"""Explanations equal adapting once more without each event, one at a time."""

import pytest
import torch

from recsys_meta.inference.insight.explanations import explain_items, without_rows
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction, QueryContext
from tests.fixtures import stub_predictors as choosing
from tests.fixtures import trained_recommenders as served


def share(recommender, known, item, question=None):
    """The score, or of what only compares items the log-odds of its share."""
    scores = recommender.score_catalog(recommender.adapt([known]), question).double()
    if recommender.bundle.schema.objective not in ("ranking", "choice"):
        return float(scores[item])
    others = torch.cat([scores[2:item], scores[item + 1 :]])
    return float(scores[item] - others.logsumexp(0)) if len(others) else 0.0


def check(recommender, known, items, question=None):
    """Every cause against its definition; answers them all."""
    found = explain_items(recommender, known, items, question, max_attributions=99)
    everything = range(known.support_size)
    for item, why in zip(items, found, strict=True):
        assert why.prior == pytest.approx(share(recommender, without_rows(known, everything), item, question), abs=1e-4)
        full = share(recommender, known, item, question)
        naive = [full - share(recommender, without_rows(known, [i]), item, question) for i in everything]
        big = sorted((m for m in naive if abs(m) > 1e-4), key=abs, reverse=True)
        assert [c.score_change for c in why.attributions][: len(big)] == pytest.approx(big, abs=1e-4)
        assert all(abs(c.score_change) < 2e-4 for c in why.attributions[len(big) :])
    return found


def test_of_a_ranking_with_dislikes():
    model = served.pushing()
    stars = {"i1": 5.0, "i5": 1.0, "i9": 4.0, "i20": 0.0}
    known = model.read_support(EntityRequest({"age": 30}, [Interaction(*pair) for pair in stars.items()]))
    found = check(model, known, [4, 10, 17])
    causes = {(c.item, c.label) for why in found for c in why.attributions}
    assert causes == {("i1", 1.0), ("i5", 0.0), ("i9", 1.0), ("i20", 0.0)}


def test_of_a_ranking():
    model = served.ranking()
    known = model.read_support(EntityRequest({"age": 30}, [Interaction(f"i{n}") for n in (1, 5, 9, 20)]))
    found = check(model, known, [4, 10, 17])
    assert {c.item for why in found for c in why.attributions} <= {"i1", "i5", "i9", "i20"}
    assert all(c.label == 1 and c.context == {} for why in found for c in why.attributions)
    few = explain_items(model, known, [4], max_attributions=2)[0]
    assert few.attributions == explain_items(model, known, [4])[0].attributions[:2] and len(few.attributions) == 2


def test_of_a_rating():
    model = served.rating()
    known = model.read_support(EntityRequest(events=[Interaction("i1", 5.0), Interaction("i2", 1.0)]))
    found = check(model, known, [7])
    assert {c.item: c.label for c in found[0].attributions} == {"i1": 5.0, "i2": 1.0}


def test_of_clicks_in_a_context():
    model = Recommender(choosing.clicks())
    events = [Interaction("p1", 1.0, 1, {"position": 0}), Interaction("new", 0.0, 2), Interaction("p1", 1.0, 3)]
    known, question = model.queries.encode(
        model.read_support(EntityRequest(events=events)), QueryContext({"position": 2})
    )
    found = check(model, known, [3], question)[0]
    assert [(c.item, c.label) for c in found.attributions if c.score_change < 0] == [("", 0.0)], (
        "an item that the model lacks"
    )
    assert [c.context for c in found.attributions if c.context] == [{"position": 0}]


def test_of_choices():
    model = Recommender(choosing.visits())
    steps = [("ann", "x"), ("bob", "y"), ("ann", "y"), ("bob", "z")]
    events = [Interaction(item, None, n, {"lat": 5.0 + n, "lon": 1.0}, actor) for n, (actor, item) in enumerate(steps)]
    known, question = model.queries.encode(model.read_support(EntityRequest(events=events)), QueryContext(actor="ann"))
    found = check(model, known, [known.catalog.ids["y"]], question)[0]
    assert [c.item for c in found.attributions if c.score_change > 0] == ["y", "y"]


def test_before_the_first_event_nothing_moved_anything():
    model = served.ranking()
    known = model.read_support(EntityRequest())
    why = explain_items(model, known, [5])[0]
    assert why.attributions == () and why.prior == pytest.approx(share(model, known, 5), abs=1e-5)
    assert explain_items(model, known, []) == []


def test_a_large_catalogue_is_worked_through_piece_by_piece(monkeypatch):
    model = served.ranking()
    known = model.read_support(EntityRequest(events=[Interaction(f"i{n}") for n in range(9)]))
    whole = explain_items(model, known, [20, 25])
    monkeypatch.setattr("recsys_meta.inference.insight.explanations.MAX_BATCH_FLOATS", 70)
    for a, b in zip(whole, explain_items(model, known, [20, 25]), strict=True):
        assert a.prior == pytest.approx(b.prior, abs=1e-5)
        assert {c.item: pytest.approx(c.score_change, abs=1e-5) for c in a.attributions} == {
            c.item: c.score_change for c in b.attributions
        }
