"""The flagship's own promises; the contract that it shares with others is in test_conformance."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys_meta.core.types import Interactions, Support, TaskBatch
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.models.functional import losses as objectives
from recsys_meta.models.functional.interpolation import SIZE_KNOTS
from recsys_meta.models.functional.sampled_softmax import draw_negatives
from recsys_meta.models.learners.ranking import item_memories as memory
from recsys_meta.models.learners.ranking.flagship import Flagship
from recsys_meta.models.learners.ranking.flagship_config import FlagshipConfig
from recsys_meta.models.learners.ranking.memory_gates import search_gates
from recsys_meta.models.learners.ranking.memory_logits import memory_logits
from tests.fixtures.simulated_datasets import ranking_world

SEEN = [[0, 1, 2], [0, 1], [1, 2, 3], [0, 2, 3], [3, 4], [0, 1, 4]]


def rows_of(lists):
    width = max(map(len, lists))
    padded = [[*(i + 2 for i in row), *[0] * (width - len(row))] for row in lists]
    item = torch.tensor(padded, dtype=torch.int64).reshape(len(lists), width)
    return Interactions(item, torch.ones(item.shape), item > 0)


def long_form():
    entity = torch.tensor([e for e, row in enumerate(SEEN) for _ in row])
    return entity, torch.tensor([i + 2 for row in SEEN for i in row])


def dense():
    x = np.zeros((len(SEEN), 5))
    for e, row in enumerate(SEEN):
        x[e, row] = 1
    return x


def learner_of(**config):
    return Flagship(FlagshipConfig(**{"dims": 6, "towers": 2, "dropout": 0.0, "memories": (), **config}))


def fresh(learner, data=None, seed=0):
    data = data or ranking_world(entities=60, items=20, rows=8)
    params = learner.init(data, np.arange(40), torch.Generator().manual_seed(seed))
    params["item"] = torch.randn(params["item"].shape, generator=torch.Generator().manual_seed(1))
    return data, params


def support_of(data, shots=(0, 1, 3, 5)):
    index = EventIndex.of(data)
    support, query = index.draw(torch.arange(40, 40 + len(shots)), torch.tensor(shots))
    from recsys_meta.episodes.collate import episode_batch

    return episode_batch(data, np.arange(40, 40 + len(shots)), support, query)


def test_the_step_is_the_gradient_of_the_support_loss():
    learner = learner_of(towers=1)
    data, params = fresh(learner)
    body = learner.body(params)
    batch = support_of(data)
    start = learner.adapt(body, batch.support.empty())
    # The start at each size, before the step: with the tables at their fresh values it does not depend on the size.
    z = start["z"].clone().requires_grad_(True)
    loss = learner.support_loss(body, {**start, "z": z}, batch.support)
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    after = learner.adapt(body, batch.support)
    expected = start["z"] - gradient * torch.tensor([*[1.0] * 6, 0.0])
    assert torch.allclose(after["z"], expected.detach(), atol=1e-5)
    assert torch.equal(after["z"][0], start["z"][0]), "no support, no step"


@pytest.mark.parametrize("negatives", [0, 3], ids=["whole", "sampled"])
def test_a_start_that_was_kept_leads_where_adapting_does(negatives):
    learner = learner_of(negatives=negatives)
    data, params = fresh(learner)
    params["start_by_size"] = torch.randn(params["start_by_size"].shape, generator=torch.Generator().manual_seed(1))
    body, support = learner.body(params), support_of(data).support
    # Other items in as many rows: a start may not look at them.
    other = replace(support, rows=replace(support.rows, item=support.rows.item.roll(1, 0).clamp(min=2)))
    start = learner.start(body, other)
    kept, plain = learner.adapt_from(body, start, support), learner.adapt(body, support)
    assert torch.allclose(kept["z"], plain["z"], atol=1e-5)
    assert torch.equal(kept["item"], plain["item"]) and torch.equal(kept["size"], plain["size"])


def test_rates_are_those_of_the_support_size():
    learner = learner_of()
    data, params = fresh(learner)
    params["log_step"][SIZE_KNOTS.index(3)] = -50.0  # nobody with three rows moves
    body, batch = learner.body(params), support_of(data)
    moved = (
        (learner.adapt(body, batch.support)["z"] - learner.adapt(body, batch.support.empty())["z"]).abs().sum((1, 2))
    )
    assert moved[2] < 1e-6 and moved[1] > 1e-3 and moved[3] > 1e-3


@pytest.mark.parametrize("ridge", [0.5, 50.0])
def test_ease_memory_equals_its_closed_form(ridge):
    entity, item = long_form()
    made = memory.build_memories("ease", memory.CoveredRows.of_rows(entity, item, 7), 5, ridge)
    said = memory.memory_scores(made, rows_of([[0, 3], [2]]), 7).numpy()[:, 2:]
    x = dense()
    p = np.linalg.inv(x.T @ x + ridge * np.eye(5))
    b = np.eye(5) - p / np.diag(p)
    np.fill_diagonal(b, 0)
    np.testing.assert_allclose(said, np.stack([b[0] + b[3], b[2]]), atol=1e-5)


def test_ease_is_the_same_from_the_entities_side():
    few = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([2, 3, 4, 4, 8])  # two entities, four items met
    x = np.zeros((2, 4))
    x[0, :3] = x[1, 2:] = 1
    p = np.linalg.inv(x.T @ x + 2 * np.eye(4))
    b = -p / np.diag(p)
    np.fill_diagonal(b, 0)
    made = memory.build_memories("ease", memory.CoveredRows.of_rows(*few, 9), 9, 2.0)
    said = memory.memory_scores(made, rows_of([[2]]), 9).numpy()[0, [2, 3, 4, 8]]
    np.testing.assert_allclose(said, b[2], atol=1e-6)


def test_cosine_memory_equals_its_definition_and_keeps_the_strongest():
    entity, item = long_form()
    x = dense()
    norm = np.sqrt((x * x).sum(0))
    cosine = x.T @ x / norm / norm[:, None]
    np.fill_diagonal(cosine, 0)
    whole = memory.build_memories("cosine", memory.CoveredRows.of_rows(entity, item, 7), 5, 1.0)
    np.testing.assert_allclose(
        memory.memory_scores(whole, rows_of([[1, 4]]), 7)[0, 2:], cosine[1] + cosine[4], atol=1e-6
    )
    short = memory.build_memories("cosine", memory.CoveredRows.of_rows(entity, item, 7), 2, 1.0)
    kept = memory.memory_scores(short, rows_of([[1]]), 7)[0, 2:].numpy()
    strongest = np.argsort(-cosine[1])[:2]
    assert set(np.flatnonzero(kept)) == set(strongest)
    np.testing.assert_allclose(kept[strongest], cosine[1][strongest], atol=1e-6)


def test_a_memory_of_nothing_says_nothing():
    empty = torch.zeros(0, dtype=torch.int64)
    for kind in ("cosine", "ease"):
        made = memory.build_memories(kind, memory.CoveredRows.of_rows(empty, empty, 6), 4, 1.0)
        assert not memory.memory_scores(made, rows_of([[1, 2]]), 6).any()
    one = memory.build_memories("ease", memory.CoveredRows.of_rows(torch.tensor([0]), torch.tensor([2]), 3), 4, 1.0)
    assert not memory.memory_scores(one, rows_of([[0]]), 3).any()


def test_the_posterior_memory_prefers_what_goes_with_the_support():
    entity, item = long_form()
    config = FlagshipConfig(memories=("posterior",), subspace=4, trust=0.1)
    table = memory.gaussian_memory(entity, item, 7, 4)
    body = {f"memory.posterior.{k}": v for k, v in table.items()} | {"vectors": torch.zeros(1, 7, 2)}
    said = [
        memory_logits(config, body, "posterior", {"item": r.item}, torch.tensor(1.0))[0]
        for r in (rows_of([[3]]), rows_of([[], [0]]))
    ]
    gain = said[0] - said[1]
    assert gain[3 + 2] == gain[2:].max(), "what was met most of all"
    assert gain[4 + 2] > gain[1 + 2], "3 goes with 4 more than with 1"


def batches_of(relevant_first, entities=40, items=12):
    """One batch a size in which the first items are what is asked for."""
    query = torch.arange(2, 2 + relevant_first).repeat(entities, 1)
    support = torch.full((entities, 1), items + 1)
    features: dict = {}
    ones = torch.ones(query.shape)
    return [
        TaskBatch(
            torch.arange(entities),
            Support(features, Interactions(support, torch.ones(support.shape), support > 0)),
            Interactions(query, ones, query > 0),
        )
    ]


def test_a_gate_opens_for_a_memory_that_helps_and_stays_shut_for_one_that_does_not():
    batches = batches_of(2)
    g = torch.Generator().manual_seed(0)
    base = [torch.randn(40, 14, generator=g)]
    truth = torch.zeros(40, 14)
    truth[:, 2:4] = 3.0
    noise = torch.randn(40, 14, generator=g) * 0.1
    helpful = search_gates(("cosine", "ease"), base, {"cosine": [truth], "ease": [noise]}, batches)
    assert helpful["cosine"][0] > 0.3
    harmful = search_gates(("cosine",), [truth], {"cosine": [-truth + noise]}, batches)
    assert harmful["cosine"] == (0.0, 0.0)


def test_luck_on_few_entities_opens_no_gate():
    opened = 0
    for seed in range(12):
        g = torch.Generator().manual_seed(seed)
        base = [torch.randn(12, 14, generator=g) * 2]
        noise = [torch.randn(12, 14, generator=g)]
        batches = batches_of(2, entities=12)
        opened += search_gates(("cosine",), base, {"cosine": noise}, batches)["cosine"] != (0.0, 0.0)
    assert opened <= 6, "a search over thirty settings always finds some gain in noise"


def test_calibration_leaves_everything_but_the_gates_alone():
    learner = learner_of(memories=("posterior", "ease", "cosine"), subspace=4)
    data, params = fresh(learner)
    batch = support_of(data, (3,) * 20)
    after = learner.calibrate(params, [batch])
    changed = {k for k in params if not torch.equal(params[k].nan_to_num(-9.0), after[k].nan_to_num(-9.0))}
    assert changed <= {"gate", "spread"}
    state = learner.adapt(learner.body(after), batch.support.empty())
    before = learner.adapt(learner.body(params), batch.support.empty())
    assert torch.equal(learner.rank(learner.body(after), state), learner.rank(learner.body(params), before))


def test_open_gates_change_scores_with_a_support_only():
    learner = learner_of(memories=("ease",), ridge=1.0)
    data, params = fresh(learner)
    batch = support_of(data)
    opened = params | {"gate": torch.tensor([[1.0, 2.0]])}
    body = learner.body(opened)
    state = learner.adapt(body, batch.support)
    gap = (learner.rank(body, state) - learner.rank(learner.body(params), state)).abs().amax(1)
    assert gap[0] == 0 and (gap[1:] > 0).all()


def test_a_sampled_softmax_steps_almost_like_the_whole_one():
    data = ranking_world(entities=60, items=60, rows=8)
    whole, sampled = learner_of(), learner_of(negatives=50)
    _, params = fresh(sampled, data)
    plain = {k: v for k, v in params.items() if k not in ("pool", "log_q")}
    batch = support_of(data)
    steps = []
    for seed in range(200):
        drawn = params | {"pool": draw_negatives(params["log_q"], 50, torch.Generator().manual_seed(seed))}
        steps.append(sampled.adapt(sampled.body(drawn), batch.support)["z"])
    exact = whole.adapt(whole.body(plain), batch.support)["z"]
    error = (torch.stack(steps).mean(0) - exact).norm() / (exact - steps[0]).norm().clamp(min=1e-9)
    assert error < 0.35, "on average over pools the sampled step is close to the whole one"
    loss, _ = sampled.meta_loss(params, batch, None, torch.Generator().manual_seed(0))
    assert torch.isfinite(loss)


def test_features_of_many_values_are_left_out():
    data = ranking_world(entities=60, items=20, rows=8)
    sizes = {f"entity.{k}": c.size for k, c in data.entities.items()} | {
        f"items.{k}": c.size for k, c in data.items.items()
    }
    learner = learner_of(most_values=max(s for s in sizes.values()) - 3)
    _, params = fresh(learner, data)
    largest = max(sizes, key=lambda k: sizes[k])
    assert largest not in params
    batch = support_of(data)
    assert torch.isfinite(learner.rank(learner.body(params), learner.adapt(learner.body(params), batch.support))).all()


def test_what_is_in_the_support_is_no_target():
    learner = learner_of()
    data, params = fresh(learner)
    batch = support_of(data, (3, 3))
    repeated = replace(batch, query=batch.support.rows)
    loss, _ = learner.meta_loss(params, repeated, None, torch.Generator())
    assert float(loss) == 0
    logits = torch.zeros(2, 22)
    assert objectives.softmax_loss(logits, batch.query).mean() > 0
