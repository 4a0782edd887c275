"""Keys of a recipe: those there are, their types and values, and a recipe with other values of them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from recsys_meta.core.errors import ConfigError
from recsys_meta.models.learners import LEARNERS
from recsys_meta.training.recipe import (
    AugmentationConfig,
    CurriculumConfig,
    EpisodeConfig,
    Recipe,
    TrainConfig,
    recipe_of,
)

SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("episodes", EpisodeConfig),
    ("augmentation", AugmentationConfig),
    ("train", TrainConfig),
    ("curriculum", CurriculumConfig),
)
LENGTH = "a run is as long as meta-validation rises; bound trials with --steps"
JUDGE = "it changes what trials are judged by"
FIXED = {
    "config.objective": "it is that of the data set",
    "train.epochs": LENGTH,
    "train.least_steps": LENGTH,
    "train.most_steps": LENGTH,
    "train.validate_every": JUDGE,
    "train.validate_steps": JUDGE,
    "train.validate_entities": JUDGE,
    "train.checkpoint_every": "a trial has no checkpoints",
    "train.keep": "a trial has no checkpoints",
    "curriculum.watch": "it only says what is recorded",
}
"""Keys that are no choices of a search, and why."""


@dataclass(frozen=True)
class RecipeKey:
    """A key of a recipe: its name in TOML, the type of its values (None: unknown), and its value in the recipe."""

    name: str
    kind: Any
    value: Any


def recipe_keys(recipe: Recipe) -> dict[str, RecipeKey]:
    """Keys of a recipe that can be tuned, by name. Raises ConfigError for an unknown learner."""
    if recipe.learner not in LEARNERS:
        raise ConfigError(f"no learner '{recipe.learner}'; there are {', '.join(sorted(LEARNERS))}")
    keys = [*_config_keys("config", LEARNERS[recipe.learner].Config, recipe.config)]
    for name, kind in SECTIONS:
        keys += _config_keys(name, kind, getattr(recipe, name).model_dump(mode="json"))
    keys += [RecipeKey(f"curriculum.config.{k}", None, v) for k, v in recipe.curriculum.config.items()]
    return {key.name: key for key in keys if key.name not in FIXED and not isinstance(key.value, dict)}


def _config_keys(prefix: str, kind: type[BaseModel], values: Mapping[str, Any]) -> Iterator[RecipeKey]:
    """Keys of a configuration class; in place of members of a mixture, the keys of each member."""
    for name, field in kind.model_fields.items():
        value = values.get(name, None if field.is_required() else field.get_default(call_default_factory=True))
        if _is_member_list(value):
            for i, member in enumerate(value):
                yield from _member_keys(f"{prefix}.{name}.{i}", member)
        else:
            yield RecipeKey(f"{prefix}.{name}", field.annotation, value)


def _is_member_list(value: Any) -> bool:
    return isinstance(value, Sequence) and any(isinstance(m, Mapping) and "learner" in m for m in value)


def _member_keys(prefix: str, member: Mapping[str, Any]) -> Iterator[RecipeKey]:
    if member["learner"] in LEARNERS:
        yield from _config_keys(f"{prefix}.config", LEARNERS[member["learner"]].Config, member.get("config", {}))
    yield RecipeKey(f"{prefix}.rate", float, member.get("rate", 1.0))


def require_key(name: str, keys: Mapping[str, RecipeKey], where: str) -> RecipeKey:
    """Return a key by name. Raises ConfigError that names the nearest one and what there is."""
    if name in keys:
        return keys[name]
    if name in FIXED:
        raise ConfigError(f"{where}: '{name}' cannot be tuned: {FIXED[name]}")
    near = difflib.get_close_matches(name, keys, n=1, cutoff=0.5)
    meant = f"; do you mean '{near[0]}'?" if near else ""
    raise ConfigError(f"{where}: the recipe has no key '{name}'{meant} There are {', '.join(keys)}")


def with_values(recipe: Recipe, values: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Recipe with other values of some keys, which its race then leaves alone. Raises ConfigError for a wrong one."""
    # JSON of numbers, texts, truth values and lists is TOML as well.
    overrides = [f"{key}={json.dumps(values[key], ensure_ascii=False)}" for key in sorted(values)]
    return recipe_of(recipe.model_dump(mode="json", exclude_unset=True), overrides, where)
