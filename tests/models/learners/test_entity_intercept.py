"""Levels of newcomers on top of a frozen model, and values hidden in its training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys_meta.core.types import PAD, UNKNOWN, Interactions
from recsys_meta.models.functional.losses import logistic_loss
from recsys_meta.models.learners.warm_up import entity_intercept as own_level
from recsys_meta.models.learners.warm_up.cvar import Cvar, CvarConfig
from recsys_meta.models.learners.warm_up.pretraining import mask_features
from tests.models.learners.test_ctr_models import clicks, generator
from tests.models.learners.test_meta_embedding import BASE, MADE, episodes, learner_of

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def rows_of(label, mask=None):
    label = torch.tensor(label, dtype=torch.float32)
    mask = torch.ones_like(label, dtype=torch.bool) if mask is None else torch.tensor(mask)
    return Interactions(torch.full(label.shape, 2), label, mask)


@pytest.fixture(scope="module")
def data():
    return clicks()


@pytest.fixture(scope="module")
def made(data):
    learner = Cvar(CvarConfig(**BASE, own_level=True))
    return learner, learner.init(data, np.arange(40), generator(1))


def moody(batch):
    """The same episodes of newcomers that are clicked always or never, whatever is shown."""
    always = (torch.arange(len(batch.entity)) % 2 == 0).float()[:, None]
    rows = replace(batch.support.rows, label=always.expand(batch.support.rows.label.shape))
    query = replace(batch.query, label=always.expand(batch.query.label.shape))
    return replace(batch, support=replace(batch.support, rows=rows), query=query)


def test_a_level_is_where_the_posterior_is_flat():
    score, variance = torch.tensor([[-3.0, -2.0, 0.5], [-3.0, -3.0, -3.0]]), torch.tensor(0.4)
    rows = rows_of([[1, 0, 1], [0, 0, 0]])
    u = own_level.entity_intercepts(score, rows, variance)
    pull = (rows.label - torch.sigmoid(score + u[:, None])).sum(1)
    torch.testing.assert_close(pull, u / variance, **CLOSE)
    assert u[0] > 0.3
    assert -0.1 < u[1] < 0


def test_padding_says_nothing_and_no_rows_or_no_variance_is_no_level():
    score = torch.tensor([[-1.0, 2.0]])
    one = own_level.entity_intercepts(score[:, :1], rows_of([[1]]), torch.tensor(0.4))
    padded = own_level.entity_intercepts(score, rows_of([[1, torch.nan]], [[True, False]]), torch.tensor(0.4))
    torch.testing.assert_close(one, padded)
    assert (own_level.entity_intercepts(score[:, :0], rows_of([[1, 0]]).first(0), torch.tensor(0.4)) == 0).all()
    assert (own_level.entity_intercepts(score, rows_of([[1, 0]]), torch.tensor(0.0)) == 0).all()


def test_the_pair_of_least_error_over_all_sizes_is_chosen():
    errors = torch.ones(2, len(own_level.STEP_SHARES), len(own_level.VARIANCES))
    errors[0, 0, 1], errors[:, 2, 3] = 0.5, 0.6  # the best of one size is not the best of both
    found = own_level.choose_shrinkage(list(errors))
    assert float(found["own.kept"]) == pytest.approx(own_level.STEP_SHARES[2])
    assert float(found["own.variance"]) == pytest.approx(own_level.VARIANCES[3])


@pytest.mark.parametrize("name", MADE)
def test_nothing_changes_until_it_is_calibrated(data, name):
    plain, own = learner_of(name), learner_of(name, own_level=True)
    batch = episodes(data, range(40, 50))
    ours, theirs = (m.adapt(m.body(m.init(data, np.arange(40), generator(1))), batch.support) for m in (own, plain))
    assert ours.keys() == theirs.keys()
    torch.testing.assert_close(ours["z"], theirs["z"])


def test_newcomers_that_differ_in_level_get_one_and_others_none(data, made):
    learner, params = made
    batch = moody(episodes(data, range(40, 60)))
    fitted = learner.calibrate(params, [batch])
    assert fitted["own.variance"] == max(own_level.VARIANCES)
    body = learner.body(fitted)
    state = learner.adapt(body, batch.support)
    assert (state["level"][0::2] > 0).all()
    assert (state["level"][1::2] < 0).all()
    before, after = (
        m.score(b, m.adapt(b, batch.support), batch.query)
        for m, b in ((learner, learner.body(params)), (learner, body))
    )
    assert logistic_loss(after, batch.query).mean() < 0.9 * logistic_loss(before, batch.query).mean()
    gap = learner.rank(body, state) - learner.rank(body, {k: v for k, v in state.items() if k != "level"})
    torch.testing.assert_close(gap, state["level"][:, None].expand_as(gap), **CLOSE)
    # Labels of the query that have nothing to do with the support's: a level would only harm.
    mixed = replace(batch, query=replace(batch.query, label=1 - batch.query.label))
    assert learner.calibrate(params, [mixed])["own.variance"] == 0
    assert learner.calibrate(params, []) is params


def test_values_are_hidden_and_padding_is_not():
    features = {"a": torch.tensor([[3, 4, PAD]]).repeat(500, 1), "n": torch.ones(500)}
    assert all(mask_features(features, 0.0, generator())[k] is v for k, v in features.items())
    found = mask_features(features, 0.3, generator())
    assert torch.equal(found["n"], features["n"])
    assert (found["a"][:, 2] == PAD).all()
    hidden = found["a"][:, :2] == UNKNOWN
    assert hidden.float().mean() == pytest.approx(0.3, abs=0.05)
    assert torch.equal(found["a"][:, :2][~hidden], features["a"][:, :2][~hidden])


def test_what_unknown_values_say_is_learned(data):
    """The base model meets them in its training: their vectors have moved from where they started."""
    start, hidden = (
        Cvar(CvarConfig(**BASE, unknown=share)).init(data, np.arange(40), generator(1)) for share in (0.0, 0.5)
    )
    assert (start["base.item"][UNKNOWN] == 0).all()
    assert hidden["base.item"][UNKNOWN].norm() > 1e-3
