"""Studies as they lie open for their workers: begun, or opened again to go on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.experiments.training_inputs import TrainingInputs, open_training_inputs
from pipelines.tuning.dataset_meta_features import meta_features
from pipelines.tuning.search_space import SearchSpace, fitted_space, parse_search_space
from pipelines.tuning.starting_settings import SimilarStudy, distinct_proposals, recipe_settings, similar_studies
from pipelines.tuning.trial_training import study_metric, trial_recipe
from pipelines.workspace import Workspace
from recsys_meta import __version__
from recsys_meta.core.errors import CheckpointError
from recsys_meta.store.tracking import tuning
from recsys_meta.store.tracking.tables import TuningStudyRecord
from recsys_meta.store.tracking.tuning import TrialProposal
from recsys_meta.training.recipe import Recipe, recipe_of


@dataclass(frozen=True)
class OpenStudy:
    """Study with what its trials need: recipe, search space, training inputs, and the settings to start with."""

    record: TuningStudyRecord
    recipe: Recipe
    space: SearchSpace
    inputs: TrainingInputs
    starts: tuple[TrialProposal, ...]
    similar: tuple[SimilarStudy, ...] = ()

    @property
    def steps(self) -> int | None:
        """Most steps of a trial; None leaves it to the recipe."""
        steps: int | None = self.record.settings["steps"]
        return steps

    @property
    def device(self) -> str:
        """Device of the trials."""
        return str(self.record.settings["device"])


def begin_study(
    workspace: Workspace,
    name: str,
    recipe: Recipe,
    space: SearchSpace,
    inputs: TrainingInputs,
    *,
    trials: int,
    steps: int | None = None,
    device: str = "cpu",
) -> OpenStudy:
    """Begin a study, after every end of its space was tried.

    Raises ConfigError for a wrong recipe or space, ConflictError if the name is taken.
    """
    data = inputs.data
    trial_recipe(recipe, inputs, steps)
    space = fitted_space(space, recipe, lambda candidate: trial_recipe(candidate, inputs, steps))
    features = meta_features(inputs)
    metric, direction = study_metric(inputs)
    with workspace.session() as session:
        similar = similar_studies(session, name, recipe.learner, data.schema.objective, features)
        borrowed = [TrialProposal(space.nearest(s.params), f"like {s.name}") for s in similar]
        starts = distinct_proposals([*recipe_settings(recipe, space), *borrowed])
        record = tuning.start_study(
            session,
            name=name,
            learner=recipe.learner,
            dataset=data.schema.name,
            digest=data.digest,
            objective=data.schema.objective,
            metric=metric,
            direction=direction,
            recipe=recipe.model_dump(mode="json", exclude_unset=True),
            space=space.as_json(),
            settings={
                "source": inputs.source,
                "scenario": inputs.scenario,
                "split": inputs.split_by,
                "seed": inputs.seed,
                "steps": steps,
                "device": device,
                "code_version": __version__,
                "starts": [{"params": dict(p.params), "origin": p.origin} for p in starts],
            },
            meta_features={k: v for k, v in features.items() if math.isfinite(v)},
            trials=trials,
        )
    return OpenStudy(record, recipe, space, inputs, tuple(starts), tuple(similar))


def reopen_study(workspace: Workspace, name: str, trials: int | None = None) -> OpenStudy:
    """Open a study again, to go on to `trials` trials (None: as many as it was to have).

    Raises NotFoundError, or CheckpointError if its data have changed.
    """
    with workspace.session() as session:
        record = tuning.get_study(session, name)
        if trials is not None:
            record.trials = trials
    settings: Mapping[str, Any] = record.settings
    inputs = open_training_inputs(
        workspace,
        settings["source"],
        scenario=settings["scenario"],
        split=settings["split"],
        seed=settings["seed"],
    )
    if inputs.data.digest != record.digest:
        raise CheckpointError(f"study {name} was made on other data than {settings['source']} holds now")
    recipe = recipe_of(record.recipe, where=f"study {name}")
    space = fitted_space(
        parse_search_space(record.space, f"study {name}"),
        recipe,
        lambda candidate: trial_recipe(candidate, inputs, settings["steps"]),
    )
    starts = tuple(TrialProposal(start["params"], start["origin"]) for start in settings["starts"])
    return OpenStudy(record, recipe, space, inputs, starts)
