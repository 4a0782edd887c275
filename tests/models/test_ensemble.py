"""Ensembles: sums of their members' scores by the size of the support, saved, loaded and served like any predictor."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FIRST
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.splits import split_by_seed
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction
from recsys_meta.models.baselines import BASELINES, make_per_shot
from recsys_meta.models.baselines.counting.popularity import ItemPopularity
from recsys_meta.models.bundle import load_bundle, make_bundle, save_bundle
from recsys_meta.models.ensemble import (
    EnsembleConfig,
    EnsembleMember,
    UncertainEnsemble,
    WarmStartEnsemble,
    make_ensemble,
)
from recsys_meta.models.ensemble.ensemble import member_params
from recsys_meta.models.factory import build_ensemble, build_predictor
from recsys_meta.models.functional.score_forms import standardize, top_heavy
from tests.models.baselines.cases import make_small_baseline, simulated_dataset, supports

POPULARITY, EASE = EnsembleMember(predictor="popularity"), EnsembleMember(predictor="ease", config={"ridge": 5.0})


def ensemble_of(data, weights, members=(POPULARITY, EASE), shots=(0, 5), **config):
    train = split_by_seed(EventIndex.of(data).entities_with(2), 0).train
    objective = data.schema.objective
    members = [m.model_copy(update={"config": {**m.config, "objective": objective}}) for m in members]
    settings = EnsembleConfig(objective=objective, members=members, shots=shots, weights=weights, **config)
    ensemble = build_ensemble(settings)
    return ensemble, member_params([m.fit(data, train) for m in ensemble.members])


def test_rankings_are_weighed_sums_of_two_forms_by_the_size_of_the_support():
    data = simulated_dataset()
    ensemble, params = ensemble_of(data, ((1.0, 0.0, 0.0, 0.0), (0.2, 0.5, 0.0, 0.3)))
    support = supports(data, sizes=(0, 5, 2, 9))
    body = ensemble.body(params)
    scores = ensemble.rank(body, ensemble.adapt(body, support))
    each = []
    for i, member in enumerate(ensemble.members):
        inner = member.body({k[2:]: v for k, v in params.items() if k.startswith(f"{i}/")})
        each.append(standardize(member.rank(inner, member.adapt(inner, support))))
    share = torch.log1p(torch.tensor([0.0, 5.0, 2.0, 5.0])) / np.log(6)  # of the second row: constant beyond its end
    for t, s in enumerate(share):
        plain = (1 - s) + s * 0.2, s * 0.5
        expected = plain[0] * each[0][t] + plain[1] * each[1][t] + s * 0.3 * top_heavy(each[1][t])
        torch.testing.assert_close(scores[t], expected)


def test_an_entity_has_the_same_scores_whoever_is_with_it():
    data = simulated_dataset()
    ensemble, params = ensemble_of(data, ((1.0, 0.0, 0.0, 0.0), (0.2, 0.5, 0.0, 0.3)))
    body, support = ensemble.body(params), supports(data)
    whole = ensemble.rank(body, ensemble.adapt(body, support))
    for t in range(support.size):
        one = ensemble.rank(body, ensemble.adapt(body, support.of(torch.tensor([t]))))
        torch.testing.assert_close(one[0], whole[t], rtol=1e-5, atol=1e-5)


def test_a_member_without_weight_is_not_asked():
    data = simulated_dataset()
    ensemble, params = ensemble_of(data, ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0)))
    body, support = ensemble.body(params), supports(data, sizes=(0, 0))
    state = ensemble.adapt(body, support)
    broken = {k: torch.full_like(v, torch.nan) if k == "1/weights" else v for k, v in body.items()}
    assert torch.equal(ensemble.rank(broken, state), ensemble.rank(body, state))
    assert ensemble.rank(broken, ensemble.adapt(body, supports(data, sizes=(5, 5)))).isnan().any()


class CountingPopularity(ItemPopularity):
    """Popularity that notes how many rows it is shown."""

    def adapt(self, body, support):
        SEEN.append(support.rows.item.shape[1])
        return super().adapt(body, support)


SEEN = []


def test_a_member_without_weight_does_not_read_the_rows():
    data = simulated_dataset()
    ensemble, params = ensemble_of(data, ((0.0, 1.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0)), (EASE, POPULARITY), shots=(0, 9))
    config = ensemble.config.model_copy(update={"weights": ((1.0, 0.0, 0.0, 0.0), (0.5, 0.5, 0.0, 0.0))})
    counting = make_ensemble(config, [ensemble.members[0], CountingPopularity()])
    body = counting.body(params)
    SEEN.clear()
    counting.adapt(body, supports(data, sizes=(0, 0), width=3))
    counting.adapt(body, supports(data, sizes=(0, 2)))
    assert SEEN == [0, 2]


RANKING_BASELINES = [name for name, kind in BASELINES.items() if "ranking" in kind.objectives]


@pytest.mark.parametrize("name", RANKING_BASELINES)
def test_members_are_mixed_as_their_own_scores_are(name):
    """Two settings, for few rows and for many, as members of one ensemble: the short way that an ensemble takes
    through evidence and popularity ends at the members' standardized scores."""
    if BASELINES[name].requires:
        pytest.importorskip(BASELINES[name].requires)
    data = simulated_dataset()
    train = split_by_seed(EventIndex.of(data).entities_with(2), 0).train
    first = make_small_baseline(name, "ranking")
    tuned = make_per_shot(name, [first, first.grid()[-1]], (0, 3), (0, 1))
    member = EnsembleMember(predictor=name, config=tuned.config.model_dump(mode="json"), per_shot=True)
    config = EnsembleConfig(members=(member, EASE), shots=(0, 3), weights=((0.5, 0.3, 0.1, 0.1), (0.3, 0.2, 0.2, 0.3)))
    ensemble = build_ensemble(config)
    body = ensemble.body(member_params([m.fit(data, train) for m in ensemble.members]))
    state = ensemble.adapt(body, supports(data, sizes=(0, 1, 4, 12, 2)))
    plain = {key: value for key, value in body.items() if key != "mixture/level"}
    torch.testing.assert_close(ensemble.rank(body, state), ensemble.rank(plain, state), rtol=1e-5, atol=1e-5)
    alone = {key: value[2:3] for key, value in state.items()}
    assert torch.equal(ensemble.rank(body, alone)[0], ensemble.rank(body, state)[2])


def test_no_weight_at_all_ranks_nothing_above_anything():
    data = simulated_dataset()
    ensemble, params = ensemble_of(data, ((0.0,) * 4, (0.0,) * 4))
    body = ensemble.body(params)
    assert not ensemble.rank(body, ensemble.adapt(body, supports(data))).any()


@pytest.mark.parametrize("objective", ["click", "rating"])
def test_labels_are_weighed_sums_with_a_bias(objective):
    data = simulated_dataset(objective)
    members = (POPULARITY, EnsembleMember(predictor="item-mean"))
    ensemble, params = ensemble_of(data, ((0.5, 0.25), (0.0, 2.0)), members, bias=(1.0, -1.0))
    body, support = ensemble.body(params), supports(data, sizes=(0, 5, 7))
    state = ensemble.adapt(body, support)
    scores = ensemble.score(body, state, support.rows)
    parts = []
    for i, member in enumerate(ensemble.members):
        inner = member.body({k[2:]: v for k, v in params.items() if k.startswith(f"{i}/")})
        parts.append(member.score(inner, member.adapt(inner, support), support.rows))
    torch.testing.assert_close(scores[0], 0.5 * parts[0][0] + 0.25 * parts[1][0] + 1)
    torch.testing.assert_close(scores[1:], 2 * parts[1][1:] - 1)
    torch.testing.assert_close(scores, ensemble.rank(body, state).gather(1, support.rows.item))
    first = {k[2:]: v for k, v in body.items() if k.startswith("0/")}
    own = ensemble.members[0].support_loss(first, {k[2:]: v for k, v in state.items() if k.startswith("0/")}, support)
    torch.testing.assert_close(ensemble.support_loss(body, state, support), own)


def test_standardized_scores_ignore_reserved_ids_and_constants():
    scores = torch.tensor([[9e9, -9e9, 1.0, 2.0, 3.0], [0.0, 0.0, 7.0, 7.0, 7.0]])
    z = standardize(scores)
    torch.testing.assert_close(z[0, FIRST:], torch.tensor([-1.2247, 0.0, 1.2247]), rtol=1e-4, atol=1e-4)
    assert not z[1].any()
    torch.testing.assert_close(standardize(scores * 3 + 5)[0, FIRST:], z[0, FIRST:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": ((1.0, 0.0),)}, "a row for each of shots, of 2 numbers for each member"),
        ({"weights": ((1.0, 0.0, 0.0), (1.0, 0.0, 0.0))}, "of 2 numbers for each member"),
        ({"shots": (5, 0)}, "ascending"),
        ({"bias": (1.0,)}, "bias must have a number for each of shots"),
        ({"members": ()}, "at least 1"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(change, message):
    whole = {"members": (POPULARITY, EASE), "shots": (0, 5), "weights": ((0.0,) * 4, (1.0,) * 4)}
    EnsembleConfig(**whole)
    with pytest.raises(ValidationError, match=message):
        EnsembleConfig(**{**whole, **change})


def test_an_unknown_member_is_a_clear_error():
    config = {"members": [{"predictor": "oracle"}], "shots": [0], "weights": [[1.0, 0.0]]}
    with pytest.raises(ConfigError, match="no learner or baseline 'oracle'"):
        build_predictor("ensemble", config)
    with pytest.raises(ConfigError, match="no baseline 'maml' to be tuned"):
        build_predictor("ensemble", {**config, "members": [{"predictor": "maml", "per_shot": True}]})
    with pytest.raises(ConfigError, match="configuration of 'ease': ridge"):
        build_predictor("ensemble", {**config, "members": [{"predictor": "ease", "config": {"ridge": -1}}]})


def test_it_can_what_its_first_member_can():
    flagship = EnsembleMember(predictor="flagship", config={"memories": []})
    config = EnsembleConfig(members=(flagship, EASE), shots=(0,), weights=((1.0, 0, 0, 0),))
    assert isinstance(build_ensemble(config), WarmStartEnsemble)
    assert not isinstance(build_ensemble(config), UncertainEnsemble)


def test_warm_starts_lead_to_the_state_of_adapting():
    data = simulated_dataset()
    train = split_by_seed(EventIndex.of(data).entities_with(2), 0).train
    flagship = EnsembleMember(predictor="flagship", config={"memories": [], "dims": 4, "towers": 2})
    config = EnsembleConfig(members=(flagship, EASE), shots=(0, 3), weights=((1.0, 0, 0, 0), (0.5, 0.2, 0.1, 0.2)))
    ensemble = build_ensemble(config)
    learner, ease = ensemble.members
    params = member_params([learner.init(data, train, torch.Generator().manual_seed(0)), ease.fit(data, train)])
    body, support = ensemble.body(params), supports(data)
    state = ensemble.adapt(body, support)
    warm = ensemble.adapt_from(body, ensemble.start(body, support), support)
    assert state.keys() == warm.keys()
    torch.testing.assert_close(ensemble.rank(body, warm), ensemble.rank(body, state), rtol=1e-4, atol=1e-5)
    assert ensemble.coarse == {"0/z"}


def test_a_saved_bundle_answers_the_same(tmp_path):
    data = simulated_dataset()
    index = EventIndex.of(data)
    train = split_by_seed(index.entities_with(2), 0).train
    ensemble, params = ensemble_of(data, ((1.0, 0.0, 0.0, 0.0), (0.2, 0.5, 0.0, 0.3)))
    bundle = make_bundle(ensemble, params, data, index, train, {})
    loaded = load_bundle(save_bundle(bundle, tmp_path))
    assert loaded.predictor.config == ensemble.config
    before, after = Recommender(bundle), Recommender(loaded)
    names = before.catalog.names
    request = EntityRequest(events=[Interaction(names[0]), Interaction(names[3])])
    first = before.score_catalog(before.adapt([before.read_support(request)]))
    second = after.score_catalog(after.adapt([after.read_support(request)]))
    assert torch.equal(first, second)
    empty = after.score_catalog(after.adapt([after.read_support(EntityRequest())]))
    assert not torch.equal(empty, second), "the support moves the scores"
