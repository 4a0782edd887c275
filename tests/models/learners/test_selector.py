"""Choice of a learner for each newcomer: meta-features, ways to choose, and the learner that does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import Interactions, Support
from recsys_meta.evaluation.cold_start import episodes_at
from recsys_meta.models.factory import build_predictor, packages_of
from recsys_meta.models.functional.candidate_scores import CandidateScores
from recsys_meta.models.functional.prefixed_keys import select_prefix
from recsys_meta.models.functional.score_forms import standardize, top_heavy
from recsys_meta.models.functional.task_meta_features import META_FEATURES, task_meta_features
from recsys_meta.models.learners.selection.cross_fitting import choose_level
from recsys_meta.models.learners.selection.linear_shares import equal_shares, single_share
from recsys_meta.models.learners.selection.selection_episodes import RankingEpisodes, RowEpisodes
from recsys_meta.models.learners.selection.selector import fit_shares
from tests.models.learners.cases import case_of

WAYS = ("gate", "q-values", "evolution")
EPISODES, MEMBERS, ITEMS = 200, 3, 30
SIGN = META_FEATURES.index("popularity")


def draw(seed=0, decides=True):
    """Meta-features, and labels that member 0 knows where the popularity is high and member 1 where it is low; without
    `decides` all members know the same. Member 2 knows nothing."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(EPISODES, len(META_FEATURES), generator=g)
    truth = torch.randn(EPISODES, ITEMS, generator=g)
    noise = torch.randn(MEMBERS, EPISODES, ITEMS, generator=g)
    if not decides:
        return x, truth, torch.stack([truth + noise[0]] * MEMBERS)
    good = (x[:, SIGN] > 0).float()[:, None]
    return x, truth, torch.stack([truth * good, truth * (1 - good), torch.zeros_like(truth)]) + 0.5 * noise


def ranking(**options):
    x, truth, scores = draw(**options)
    plain = torch.stack([standardize(s) for s in scores])
    gain = (truth > 1.0).float()
    gain[:, 0] = 1
    entity = np.arange(EPISODES) // 2
    candidates = CandidateScores(torch.cat([plain, top_heavy(plain)]), gain, gain.sum(1).long(), entity)
    return RankingEpisodes(x, entity, candidates)


def ratings(**options):
    x, truth, scores = draw(**options)
    mask = torch.ones(EPISODES, ITEMS, dtype=torch.bool)
    return RowEpisodes(x, np.arange(EPISODES) // 2, scores.permute(1, 2, 0), truth, mask, is_click=False)


def worth(fitted, episodes):
    return float(episodes.values(fitted.shares.of(episodes.features)).mean())


@pytest.mark.parametrize("kind", [ranking, ratings])
@pytest.mark.parametrize("way", WAYS)
def test_each_way_finds_the_meta_feature_that_decides(kind, way):
    fitted, fresh = fit_shares(kind(), way), kind(seed=1)
    assert fitted.level == "by meta-features" and fitted.gain > 0
    values = fresh.member_values
    single, oracle = float(values.mean(0).max()), float(values.max(1).values.mean())
    assert worth(fitted, fresh) > single + 0.6 * (oracle - single)
    shares = fitted.shares.of(fresh.features)
    torch.testing.assert_close(shares.sum(1), torch.ones(EPISODES), atol=1e-3, rtol=0)
    high = fresh.features[:, SIGN] > 1
    assert shares[high, 0].mean() > 0.9 and shares[fresh.features[:, SIGN] < -1, 1].mean() > 0.9


@pytest.mark.parametrize("way", WAYS)
def test_where_all_members_are_alike_one_is_taken_for_all(way):
    episodes = ranking(decides=False)
    fitted = fit_shares(episodes, way)
    assert fitted.level == "best single" and fitted.gain == 0
    shares = fitted.shares.of(episodes.features)
    assert (shares.max(1).values > 0.999).all() and (shares[:, shares[0].argmax()] > 0.999).all()


def test_the_best_single_learner_and_equal_shares():
    episodes = ratings()
    best = int(episodes.member_values.mean(0).argmax())
    assert (fit_shares(episodes, "best").shares.of(episodes.features)[:, best] > 0.999).all()
    equal = fit_shares(episodes, "equal").shares.of(episodes.features)
    torch.testing.assert_close(equal, torch.full_like(equal, 1 / MEMBERS))


def test_the_same_seed_chooses_alike_and_members_worth_is_that_of_all_to_one():
    episodes = ranking()
    one, two = (fit_shares(episodes, "evolution", seed=3) for _ in range(2))
    assert torch.equal(one.shares.weight, two.shares.weight)
    shares = single_share(len(META_FEATURES), MEMBERS, 1).of(episodes.features)
    torch.testing.assert_close(episodes.values(shares), episodes.member_values[:, 1])
    with pytest.raises(IndexError):
        choose_level(episodes, [], 0)


def rows_of(items, labels=None):
    item = torch.tensor(items)
    label = torch.ones(item.shape) if labels is None else torch.tensor(labels)
    return Interactions(item, label, item > 0)


def test_meta_features_by_hand():
    """Items 2, 3, 4 have the values 2; 2 and 3; nothing. Of the second task nothing is known."""
    tables = {
        "meta.popularity": torch.tensor([0.0, 0.0, 1.0, 3.0, -1.0]),
        "meta.entropy": torch.tensor([0.5]),
        "meta.labels": torch.ones(1),
        "meta.field.genre": torch.tensor([[0, 0], [0, 0], [2, 0], [2, 3], [0, 0]]),
        "meta.values.job": torch.tensor([4]),
    }
    features = {"job": torch.tensor([[3], [1]]), "age": torch.tensor([torch.nan, torch.nan])}
    dislikes = rows_of([[4], [0]])
    support = Support(features, rows_of([[2, 3, 2, 9], [0, 0, 0, 0]], [[1.0, 3, 5, 3], [0] * 4]), None, dislikes)
    values = task_meta_features(tables, support)
    chance = np.array([1 + 0.5 + 1, 0.5]) / 3  # of the values 2 and 3; the unknown item has none
    entropy = float(-(chance * np.log(chance)).sum())
    popularity = np.array([1.0, 3.0, 1.0, 0.0])
    expected = {
        "log_size": np.log(5),
        "empty": 0,
        "label_mean": 3,
        "label_spread": np.sqrt(2),
        "popularity": popularity.mean(),
        "popularity_spread": popularity.std(),
        "unknown": 0.25,
        "repeated": 0.25,
        "entropy": entropy,
        "diversity": entropy - 0.5,
        "known": 0.5,
        "dislikes": np.log(2),
    }
    torch.testing.assert_close(values[0], torch.tensor([float(expected[n]) for n in META_FEATURES]))
    nothing = {**dict.fromkeys(META_FEATURES, 0.0), "empty": 1.0}
    torch.testing.assert_close(values[1], torch.tensor([nothing[n] for n in META_FEATURES]))


@pytest.fixture(scope="module")
def case():
    return case_of("selector", "ranking")


def with_shares(case, shares):
    return {
        **case.params,
        "gate.weight": shares.weight,
        "gate.bias": shares.bias,
        "gate.pick": shares.pick,
    }


def test_all_to_one_member_ranks_as_that_member(case):
    body = case.learner.body(with_shares(case, single_share(len(META_FEATURES), 2, 1)))
    state = case.learner.adapt(body, case.batch.support)
    member, own = case.learner.members[1], select_prefix(body, 1)
    expected = standardize(member.rank(own, member.adapt(own, case.batch.support)))
    torch.testing.assert_close(case.learner.rank(body, state), expected)


def test_an_entity_does_not_depend_on_whom_others_ask(case):
    """One task asks the first member alone, the others the second: each is what it is by itself."""
    shares = equal_shares(len(META_FEATURES), 2)
    weight = shares.weight.clone()
    weight[META_FEATURES.index("empty"), 0] = 1
    params = with_shares(case, replace(shares, weight=weight, bias=torch.tensor([0.0, 0.5]), pick=torch.ones(1)))
    body, support = case.learner.body(params), case.batch.support
    state = case.learner.adapt(body, support)
    assert set(state["share"].argmax(1).tolist()) == {0, 1}
    together = case.learner.rank(body, state)
    for t in range(support.size):
        alone = case.learner.rank(body, case.learner.adapt(body, support.of(torch.tensor([t]))))
        torch.testing.assert_close(alone[0], together[t])


@pytest.mark.parametrize("label", ["ranking", "click"])
def test_calibrating_fits_shares_and_changes_nothing_else_of_the_group(label):
    case = case_of("selector", label)
    episodes = [episodes_at(case.data, case.index, case.split.valid, k) for k in (0, 3)]
    params = case.learner.calibrate(case.params, episodes)
    assert params.keys() == case.params.keys()
    assert {k for k in params if k.startswith("gate.") and not torch.equal(params[k], case.params[k])} >= {"gate.mean"}
    state = case.learner.adapt(case.learner.body(params), case.batch.support)
    torch.testing.assert_close(state["share"].sum(1), torch.ones(12), atol=1e-3, rtol=0)
    assert (state["share"] != 0.5).any(), "shares are no longer those before the calibration"


@pytest.mark.parametrize(
    ("members", "text"),
    [
        (["selector", "maml"], "'selector' is no learner to choose"),
        (["nobody", "maml"], "'nobody' is no learner to choose"),
        (["choice", "maml"], "'choice' does not serve the objective 'ranking'"),
        (["maml"], "at least 2"),
    ],
)
def test_members_that_cannot_be_chosen_are_refused(members, text):
    with pytest.raises(ConfigError, match=text):
        build_predictor("selector", {"members": [{"learner": name} for name in members]})


def test_settings_of_the_selector_hold_for_members_that_have_them_and_do_not_say_otherwise():
    members = [{"learner": "maml"}, {"learner": "prototypical", "config": {"dropout": 0.2}}, {"learner": "flagship"}]
    learner = build_predictor("selector", {"members": members, "dropout": 0.6, "negatives": 50, "objective": "ranking"})
    assert [m.config.dropout for m in learner.members[:2]] == [0.6, 0.2]
    assert [m.config.negatives for m in learner.members[:2]] == [50, 50]
    assert packages_of(learner) == {}
