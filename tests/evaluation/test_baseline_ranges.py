"""Baselines on real data: no constant of theirs is chosen at the end of the range that was searched.

CI tries the sets that take a minute; all of them, with the baselines that are trained, take an hour of one core:
`RECSYS_META_EVERY_SET=1 pytest tests/evaluation/test_baseline_ranges.py`.
"""

import os

import pytest

from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.splits import split_of
from recsys_meta.evaluation.baseline_tuning import edge_warnings, fit_tuned
from recsys_meta.models.baselines import BASELINES

EVERY_SET = bool(os.environ.get("RECSYS_META_EVERY_SET"))
RANKINGS = ("movielens-100k", "frappe-users")
CLICKS: tuple[str, ...] = ()
if EVERY_SET:
    RANKINGS += ("movielens-latest-small", "shop-views", "yelp-reviews", "citeulike-users")
    CLICKS += ("frappe",)
TRAINED = frozenset() if EVERY_SET else frozenset({"sasrec", "ials"})
ENTITIES = 100
"""Meta-validation entities, a third of what `compare` takes, so that a set takes a minute or two."""


def cases():
    sets = [(name, "ranking") for name in RANKINGS] + [(name, "click") for name in CLICKS]
    return [
        (name, baseline)
        for name, objective in sets
        for baseline, kind in BASELINES.items()
        if objective in kind.objectives and kind(objective=objective).search_space() and baseline not in TRAINED
    ]


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize(("name", "baseline"), cases())
def test_no_choice_lies_at_the_end_of_its_range(real, name, baseline):
    data = real(name)
    index = EventIndex.of(data)
    tuned = fit_tuned(baseline, data, index, split_of(data, index), data.schema.shots, max_entities=ENTITIES)
    assert edge_warnings(tuned.report) == []
