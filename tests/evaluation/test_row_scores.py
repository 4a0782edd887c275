"""Scores of rows in parts: what a predictor says of a row does not depend on which rows it is asked about at once."""

import pytest
import torch

from recsys_meta.evaluation import row_scores as module
from recsys_meta.evaluation.row_scores import row_scores
from tests.models.learners.cases import case_of


@pytest.mark.parametrize("most", [1, 7, 10_000])
def test_parts_have_the_scores_of_the_whole(monkeypatch, most):
    case = case_of("maml", "dot")
    body, rows = case.learner.body(case.params), case.batch.query
    state = case.learner.adapt(body, case.batch.support)
    sizes = []

    class Counted:
        def score(self, body, state, rows):
            sizes.append(rows.item.numel())
            return case.learner.score(body, state, rows)

    monkeypatch.setattr(module, "MOST_ROWS", most)
    found = row_scores(Counted(), body, state, rows)
    torch.testing.assert_close(found, case.learner.score(body, state, rows))
    assert max(sizes) <= max(most, len(rows.item)) and (len(sizes) == 1) == (most >= rows.item.numel())
