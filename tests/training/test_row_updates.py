"""Steps on the rows that a batch reads end where steps on whole tables end."""

from __future__ import annotations

import pytest
import torch

from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.models.learners.maml.maml import Maml, MamlConfig
from recsys_meta.models.learners.ranking.flagship import Flagship
from recsys_meta.models.learners.ranking.flagship_config import FlagshipConfig
from recsys_meta.training import row_updates
from recsys_meta.training.recipe import recipe_of
from recsys_meta.training.run_state import from_checkpoint, to_checkpoint
from recsys_meta.training.trainer import fit, start_training
from tests.fixtures.simulated_datasets import ranking_world, rating_world

CLOSE = {"rtol": 1e-3, "atol": 5e-5, "equal_nan": True}  # missing numbers of items are NaN
"""Of weights after steps of 1e-2 in single precision: where a gradient is almost 0, Adam makes its rounding greater."""
SETTINGS = {
    "flagship": FlagshipConfig(dims=6, towers=2, dropout=0.0, negatives=4, memories=(), decay=0.1),
    "rating": MamlConfig(objective="rating", dims=6, dropout=0.0, rate=0.1, decay=0.1),
    "ranking": MamlConfig(objective="ranking", dims=6, dropout=0.0, negatives=4, decay=0.1),
    "melu": MamlConfig(
        objective="rating", dims=6, dropout=0.0, hidden=(8,), combine="concat", adapts="head", rate=0.1, steps=2
    ),
}


def learner_of(name, *, whole=False):
    """A learner of the settings; `whole`: every step of it reads whole tables."""
    kind = Flagship if name == "flagship" else Maml
    if whole:
        kind = type("WholeTables", (kind,), {"select_rows": lambda self, params, batch, generator: None})
    return kind(SETTINGS[name])


def updates_of(table, bias):
    groups = [
        {"params": [table], "lr": 1e-2, "weight_decay": 0.3},
        {"params": [bias], "lr": 1e-3, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.99))


def test_row_updates_are_those_of_adamw():
    """In double precision: values, moments and average of tables [C, D] and [C], at rates that change."""
    generator, decay = torch.Generator().manual_seed(0), 0.95
    start = {
        "item": torch.randn(30, 4, generator=generator).double(),
        "bias": torch.randn(30, generator=generator).double(),
    }
    ours, theirs = ({k: v.clone().requires_grad_() for k, v in start.items()} for _ in range(2))
    optimisers = [updates_of(*params.values()) for params in (ours, theirs)]
    updates = row_updates.RowUpdates(optimisers[0], ours)
    averages = [{k: v.clone() for k, v in start.items()} for _ in range(2)]
    for step in range(120):
        ids = torch.randperm(30, generator=generator)[: 1 + step % 4].sort().values
        for optimiser in optimisers:
            for group, rate in zip(optimiser.param_groups, (1e-2, 1e-3), strict=True):
                group["lr"] = rate * (1 - step / 200)
        leaves = updates.read(dict.fromkeys(ours, ids), averages[0])
        for key, leaf in leaves.items():
            torch.testing.assert_close(leaf, theirs[key][ids], rtol=1e-6, atol=1e-8)
            leaf.grad = torch.randn(leaf.shape, generator=generator).double()
            theirs[key].grad = torch.zeros_like(theirs[key]).index_copy(0, ids, leaf.grad)
        updates.step(dict.fromkeys(ours, ids), leaves, averages[0], decay)
        optimisers[1].step()
        for key, average in averages[1].items():
            average.lerp_(theirs[key].detach(), 1 - decay)
    updates.settle(averages[0])
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(averages[0][key], averages[1][key], rtol=1e-6, atol=1e-8)
        for moment in ("step", "exp_avg", "exp_avg_sq"):
            values = [o.state[params[key]][moment] for o, params in zip(optimisers, (ours, theirs), strict=True)]
            torch.testing.assert_close(*values)


def test_all_rows_are_brought_up_to_date_a_few_at_a_time(monkeypatch):
    """So that no copy of a whole table is made, and with the same bits."""
    original, sizes = row_updates.RowUpdates._catch_up, []

    def catch_up(self, key, ids, averages):
        sizes.append(len(ids))
        original(self, key, ids, averages)

    monkeypatch.setattr(row_updates.RowUpdates, "_catch_up", catch_up)
    results = []
    for rows in (7, 1000):
        monkeypatch.setattr(row_updates, "SETTLED_ROWS", rows)
        generator = torch.Generator().manual_seed(0)
        params = {"item": torch.randn(30, 4, generator=generator).requires_grad_()}
        optimiser = torch.optim.AdamW(params.values(), lr=1e-2, weight_decay=0.3)
        updates, averages = row_updates.RowUpdates(optimiser, params), {"item": params["item"].detach().clone()}
        sizes.clear()
        for _ in range(3):
            ids = torch.randperm(30, generator=generator)[:4].sort().values
            leaves = updates.read({"item": ids}, averages)
            leaves["item"].grad = torch.randn(4, 4, generator=generator)
            updates.step({"item": ids}, leaves, averages, 0.95)
        updates.settle(averages)
        assert (max(sizes) <= 7) == (rows == 7)
        results.append({**averages, "own": params["item"].detach(), **optimiser.state[params["item"]]})
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])


def begin(learner, **train):
    world = {"rating": rating_world, "ranking": ranking_world}[learner.config.objective](entities=60, items=120)
    index = EventIndex.of(world)
    recipe = recipe_of(
        {
            "name": "test",
            "learner": learner.name,
            "config": learner.config.model_dump(mode="json"),
            "episodes": {"max_shots": 4, "max_query": 3},
            "train": {"tasks": 3, "epochs": 3, "rate": 1e-2, "schedule": "cosine", "warmup": 3} | train,
        }
    )
    return start_training(learner, recipe, world, index, index.entities_with(2), 0)


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], **CLOSE, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("average", [0.0, 0.9])
@pytest.mark.parametrize("name", SETTINGS)
def test_rows_end_where_whole_tables_end(name, average):
    """Weights, moments, averages and losses, with momentum, decay, a schedule of rates and clipping."""
    runs = begin(learner_of(name), average=average), begin(learner_of(name, whole=True), average=average)
    losses = [[step.loss for step in fit(run, lambda _: 0.0)] for run in runs]
    assert len(losses[0]) == runs[0].steps > 30
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    rows, whole = runs
    assert_same(rows.best_params_or_last(), whole.best_params_or_last())
    assert_same(rows.current_params(), whole.current_params())
    for key in rows.trainable:
        ours, theirs = (run.optimiser.state[run.params[key]] for run in runs)
        assert ours["step"] == theirs["step"]


def test_a_step_changes_the_rows_that_it_reads_and_no_others():
    run = begin(learner_of("rating"))
    steps = fit(run, lambda _: 0.0)
    for _ in range(4):
        next(steps)
    before = run.params["item"].detach().clone()
    next(steps)
    changed = (run.params["item"].detach() != before).any(1)
    assert 0 < changed.sum() <= 3 * (4 + 3)
    assert (run.row_updates.histories["item"].updated[changed] == 5).all()


def test_a_row_that_waits_for_long_is_brought_up_to_date(monkeypatch):
    """However often all rows are settled on the way."""
    whole = begin(learner_of("rating", whole=True))
    list(fit(whole, lambda _: 0.0))
    monkeypatch.setattr(row_updates, "LONGEST", 5)
    rows = begin(learner_of("rating"))
    list(fit(rows, lambda _: 0.0))
    assert_same(rows.best_params_or_last(), whole.best_params_or_last())


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_resumed_run_ends_with_the_same_bits(average):
    """From a checkpoint between validations, at which most rows are behind."""
    run = begin(learner_of("rating"), average=average)
    stop = None
    for step in fit(run, lambda _: 0.0):
        stop = to_checkpoint(run) if step.step == 17 else stop
    assert any(k.startswith("rows/") for k in stop.tensors)
    resumed = begin(learner_of("rating"), average=average)
    from_checkpoint(resumed, stop)
    list(fit(resumed, lambda _: 0.0))
    ours, theirs = resumed.best_params_or_last(), run.best_params_or_last()
    assert all(torch.equal(ours[k], theirs[k]) for k in run.trainable)


def test_steps_on_rows_and_on_whole_tables_may_alternate():
    """A batch may have more ids than the catalogue has items."""

    class Alternating(Maml):
        def select_rows(self, params, batch, generator):
            return super().select_rows(params, batch, generator) if len(batch.entity) and next(turns) % 3 else None

    turns = iter(range(10**6))
    rows, whole = (
        begin(Alternating(SETTINGS["rating"]), average=0.9),
        begin(learner_of("rating", whole=True), average=0.9),
    )
    for run in (rows, whole):
        list(fit(run, lambda _: 0.0))
    assert_same(rows.best_params_or_last(), whole.best_params_or_last())
