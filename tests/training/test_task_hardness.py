"""The error of query rows after adapting, against what it must be by hand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from recsys_meta.core.types import EntityCatalog, Interactions, Support, TaskBatch
from recsys_meta.models.protocols import PredictorConfig
from recsys_meta.training.task_hardness import query_errors, sample_candidates, task_hardness


@dataclass(frozen=True)
class Shifted:
    """Scores [T, C] of a table, moved up by the sum of the support's labels for the items in it."""

    table: torch.Tensor
    name: str = "shifted"
    config: PredictorConfig = field(default_factory=PredictorConfig)

    def body(self, params):
        return params

    def adapt(self, body, support):
        rows = support.rows
        scores = self.table.expand(support.size, -1).clone()
        return {"scores": scores.scatter_add(1, rows.item, rows.label * rows.mask)}

    def rank(self, body, state):
        return state["scores"]

    def score(self, body, state, rows):
        return state["scores"].gather(1, rows.item)

    def support_loss(self, body, state, support):
        return torch.zeros(support.size)


@dataclass(frozen=True)
class Choosing(Shifted):
    """A predictor that chooses: its scores are the squares of the others'."""

    def choose(self, body, state, rows, candidates):
        return state["scores"].gather(1, candidates.flatten(1)).view(candidates.shape) ** 2


def rows(item, label=None, mask=None):
    item = torch.tensor(item)
    label = torch.ones(item.shape) if label is None else torch.tensor(label)
    return Interactions(item, label, torch.ones_like(item, dtype=torch.bool) if mask is None else torch.tensor(mask))


def batch(support, query, own=None):
    return TaskBatch(torch.arange(len(query.item)), Support({}, support, own), query)


TABLE = torch.tensor([0.0, 0.0, 1.0, 2.0, 3.0])


def errors(objective, made, predictor=None, **more):
    generator = torch.Generator().manual_seed(0)
    return query_errors(predictor or Shifted(TABLE), {}, made, objective, generator, **more)


def test_ratings_and_clicks_are_judged_row_by_row_after_adapting():
    made = batch(
        rows([[2, 2]], [[1.0, 0.5]], [[True, False]]),
        rows([[2, 3, 4]], [[0.0, 1.0, 1.0]], [[True, True, False]]),
    )
    error, mask = errors("rating", made)
    assert mask.tolist() == [[True, True, False]]
    assert error.tolist() == [[4.0, 1.0, 0.0]]  # the score of item 2 has moved from 1 to 2
    error, _ = errors("click", made)
    np.testing.assert_allclose(error[0, :2], [np.log1p(np.exp(2.0)), np.log1p(np.exp(-2.0))], rtol=1e-6)


def test_a_ranking_is_judged_against_what_the_support_does_not_hold():
    made = batch(rows([[4]]), rows([[2, 3, 4, 1]]))
    error, mask = errors("ranking", made)
    assert mask.tolist() == [[True, True, False, False]]
    np.testing.assert_allclose(error[0, :2], [np.log1p(np.e), np.log1p(np.exp(-1))], rtol=1e-6)
    assert (error[0, 2:] == 0).all()


def choices(items=(3, 1)):
    """Two entities with so many items, local ids from 2; each takes its items 2 and unknown."""
    width = max(items) + 2
    place = torch.arange(width)
    mask = (place >= 2) & (place < 2 + torch.tensor(items)[:, None])
    own = EntityCatalog(torch.where(mask, place, 0), {}, mask)
    return batch(rows([[2], [2]], mask=[[False], [False]]), rows([[2, 1], [2, 1]]), own)


@pytest.mark.parametrize(("kind", "gaps"), [(Shifted, (1, 2)), (Choosing, (3, 8))])
def test_a_choice_is_judged_against_others_of_its_own_catalogue(kind, gaps):
    """With many draws the others are met in equal parts."""
    count = 30_000
    error, mask = errors("choice", choices(), kind(TABLE), candidates=count)
    assert mask.tolist() == [[True, False], [True, False]]
    expected = np.log1p(count / 3 * sum(np.exp(g) for g in gaps))
    assert float(error[0, 0]) == pytest.approx(expected, abs=0.02)
    assert float(error[1, 0]) == pytest.approx(0), "the only item there is"


def test_candidates_are_drawn_from_the_mask_alone_and_evenly():
    mask = torch.tensor(
        [[False, False, True, False, True, True], [False] * 6, [False, False, False, False, False, True]]
    )
    got = sample_candidates(mask, 40, 500, torch.Generator().manual_seed(1))
    assert got.shape == (3, 40, 500)
    share = torch.bincount(got[0].flatten(), minlength=6) / got[0].numel()
    np.testing.assert_allclose(share, [0, 0, 1 / 3, 0, 1 / 3, 1 / 3], atol=0.02)
    assert (got[1] == 0).all()
    assert (got[2] == 5).all()


def test_choices_need_catalogues():
    with pytest.raises(ValueError, match="catalogue"):
        errors("choice", replace(choices(), support=Support({}, rows([[2], [2]]))))


def test_hardness_of_a_task_is_the_mean_of_its_rows():
    error = torch.tensor([[1.0, 3.0, 9.0], [5.0, 5.0, 5.0]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    made = task_hardness(error * mask, mask)
    assert float(made[0]) == 2.0
    assert bool(made[1].isnan())


def test_no_gradient_is_kept():
    table = TABLE.clone().requires_grad_()
    error, _ = errors("rating", batch(rows([[2]]), rows([[3]])), Shifted(table))
    assert not error.requires_grad
