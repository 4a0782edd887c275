"""Optuna over the trials of the database: a study in memory is rebuilt from them for every decision.

So the tables are the only state: workers share them, and a study that was killed goes on with the proposals that it
would have made. (Optuna's own storage would bring its own tables and migrations into our database.)
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from pipelines.tuning.search_space import Choice, NumberRange, SearchSpace
from recsys_meta.store.tracking.tables import TuningStudyRecord, TuningTrialRecord
from recsys_meta.store.tracking.tuning import ABANDONED

RANDOM_TRIALS = 8
"""Trials before the sampler models what is good: those tried first, then random ones."""
MEDIAN_TRIALS = 4
"""Finished trials before one is stopped early."""
FIRST_PRUNED = 2
"""Number of the validation from which on a trial may be stopped early: the first one says little."""
LEAST_IMPORTANCE_TRIALS = 4
"""Finished trials that an estimate of importance needs."""

optuna.logging.set_verbosity(logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def suggest(
    study: TuningStudyRecord, space: SearchSpace, trials: Sequence[TuningTrialRecord], seed: int
) -> dict[str, Any]:
    """Settings that the tree-structured Parzen estimator (Bergstra 2011) proposes next, given the trials so far.

    Running trials count as bad ones, so that workers try different things. The proposal depends on the trials, the seed
    and the number of trials alone.
    """
    position = sum(t.status not in ABANDONED for t in trials)
    state = int(np.random.SeedSequence([seed, position]).generate_state(1)[0])
    sampler = optuna.samplers.TPESampler(seed=state, n_startup_trials=RANDOM_TRIALS, constant_liar=True)
    rebuilt = rebuild_study(study, space, trials, sampler)
    proposal = rebuilt.ask(_distributions(space)).params
    return {key: _value(space.choices[key], proposal[key]) for key in space.choices}


def is_hopeless(
    study: TuningStudyRecord, space: SearchSpace, trials: Sequence[TuningTrialRecord], number: int, values: list[float]
) -> bool:
    """True for a trial whose best validation so far is worse than the median of the finished ones at the same one."""
    if len(values) < FIRST_PRUNED:
        return False
    pruner = optuna.pruners.MedianPruner(n_startup_trials=MEDIAN_TRIALS, n_warmup_steps=FIRST_PRUNED)
    others = [t for t in trials if t.number != number]
    courses = dict(enumerate(values, 1))
    trial = create_trial(state=TrialState.RUNNING, intermediate_values=courses)
    return bool(pruner.prune(rebuild_study(study, space, others), trial))


def importances(
    study: TuningStudyRecord, space: SearchSpace, trials: Sequence[TuningTrialRecord]
) -> dict[str, float] | None:
    """Share of each key in what tells the best finished trials from the rest (PED-ANOVA, Watanabe 2023), largest first.

    None with fewer than four finished trials, or with equal values alone.
    """
    finished = [t for t in trials if t.status == "finished"]
    if len(finished) < LEAST_IMPORTANCE_TRIALS or len({t.value for t in finished}) < 2:
        return None
    found = optuna.importance.get_param_importances(
        rebuild_study(study, space, finished), evaluator=optuna.importance.PedAnovaImportanceEvaluator()
    )
    return {key: float(share) for key, share in found.items()}


def rebuild_study(
    study: TuningStudyRecord,
    space: SearchSpace,
    trials: Sequence[TuningTrialRecord],
    sampler: optuna.samplers.BaseSampler | None = None,
) -> optuna.Study:
    """Build a study in memory from the trials that came to a result or still run."""
    direction = StudyDirection.MINIMIZE if study.direction == "minimize" else StudyDirection.MAXIMIZE
    rebuilt = optuna.create_study(direction=direction, sampler=sampler or optuna.samplers.RandomSampler(seed=0))
    distributions = _distributions(space)
    rebuilt.add_trials([_frozen(t, space, distributions) for t in trials if t.status not in ABANDONED])
    return rebuilt


def _frozen(trial: TuningTrialRecord, space: SearchSpace, distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
    state = {"finished": TrialState.COMPLETE, "running": TrialState.RUNNING}.get(trial.status, TrialState.PRUNED)
    # A trial that failed counts as one that was stopped before its first validation: the worst there is.
    courses = {} if trial.status == "failed" else {int(k): v for k, v in trial.validations.items()}
    return create_trial(
        state=state,
        value=trial.value if trial.status == "finished" else None,
        params={key: _encoded(choice, trial.params[key]) for key, choice in space.choices.items()},
        distributions=dict(distributions),
        intermediate_values=courses,
    )


def _distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    return {key: _distribution(choice) for key, choice in space.choices.items()}


def _distribution(choice: Choice) -> BaseDistribution:
    if not isinstance(choice, NumberRange):
        return CategoricalDistribution([_encoded(choice, v) for v in choice.values])
    if choice.whole:
        return IntDistribution(int(choice.low), int(choice.high), log=choice.log)
    return FloatDistribution(float(choice.low), float(choice.high), log=choice.log)


def _encoded(choice: Choice, value: Any) -> Any:
    """Value as Optuna takes it: a list is no category, its JSON is."""
    return value if isinstance(choice, NumberRange) else json.dumps(value)


def _value(choice: Choice, encoded: Any) -> Any:
    return encoded if isinstance(choice, NumberRange) else json.loads(encoded)
