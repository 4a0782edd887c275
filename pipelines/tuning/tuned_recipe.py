"""Recipe that a study found, as TOML that `train` takes."""

from __future__ import annotations

from typing import Any

import tomli_w

from pipelines.tuning.open_study import OpenStudy
from pipelines.tuning.recipe_keys import with_values
from recsys_meta.store.tracking.tables import TuningTrialRecord
from recsys_meta.training.recipe import Recipe, recipe_of

SUFFIX = "-tuned"


def tuned_recipe(study: OpenStudy, best: TuningTrialRecord) -> Recipe:
    """Recipe of a study with the settings of a trial. A race over keys that were tuned alone is over."""
    recipe = with_values(study.recipe, best.params, f"trial {best.number}")
    raw = recipe.model_dump(mode="json", exclude_unset=True)
    if recipe.race.settings and not any(recipe.race.settings):
        raw.pop("race")
    name = recipe.name if recipe.name.endswith(SUFFIX) else recipe.name + SUFFIX
    return recipe_of(raw | {"name": name}, where=f"trial {best.number}")


def recipe_toml(study: OpenStudy, best: TuningTrialRecord) -> str:
    """TOML of `tuned_recipe`, with a comment on its origin."""
    record, raw = study.record, tuned_recipe(study, best).model_dump(mode="json", exclude_unset=True)
    head = (
        f"# Found by `recsys-meta tune`: study {record.name}, trial {best.number} of {record.trials}, recipe "
        f"{study.recipe.name}.\n# {record.metric} {best.value:.4f} on meta-validation of {record.dataset} (learner "
        "alone), the best of all trials and so a little too good;\n# its quality on new entities is what `evaluate` "
        "says.\n"
    )
    return head + tomli_w.dumps(_without_none(raw))


def _without_none(value: Any) -> Any:
    """Value without the keys that are None, which TOML does not know; they are the default."""
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_without_none(v) for v in value if v is not None]
    return value
