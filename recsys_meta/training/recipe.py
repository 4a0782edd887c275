"""Recipe: all settings of a training run as typed data read from TOML.

`--set a.b=value` overrides one key; unknown keys are refused with the file and the key named.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import explain_errors


class _RecipeSection(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class EpisodeConfig(_RecipeSection):
    """Draw of training episodes: support sizes from 0 to `max_shots` by `draw`, a share `empty` of them 0.

    `order`: "random" rows; rows in the order of the "data", so that the support always holds the first ones; or a
    "window" of consecutive rows that begins anywhere. None: "data" where times are exact, else "random".
    """

    max_shots: int = Field(default=40, ge=0, le=10_000, description="most rows of a support")
    empty: float = Field(default=0.1, ge=0, le=1, description="share of the supports without rows")
    draw: Literal["uniform", "log", "mixed", "fixed"] = Field(
        default="uniform", description="how support sizes from 0 to max_shots are drawn"
    )
    shrink_steps: int = Field(
        default=0, ge=0, description="first steps, over which the least support falls from max_shots to nothing"
    )
    max_query: int = Field(default=0, ge=0, description="query rows kept of an episode; 0 keeps all")
    order: Literal["random", "data", "window"] | None = Field(
        default=None,
        description="which rows: any, the first of the data, or a window of consecutive ones; none: by the data",
    )


class AugmentationConfig(_RecipeSection):
    """Changes of training episodes, against knowing tasks by heart; see `task_augmentation`. None by default."""

    drop_rows: float = Field(default=0.0, ge=0, lt=1, description="share of support rows that are left out")
    label_noise: float = Field(
        default=0.0, ge=0, description="deviation of noise on ratings of a support, or share of its clicks turned"
    )
    mix: float = Field(default=0.0, ge=0, le=1, description="share of tasks that take half of their rows of another")


class TrainConfig(_RecipeSection):
    """Outer loop: `tasks` episodes a step, AdamW, early stop after `patience` validations without gain.

    With `most_steps` the run is as long as meta-validation rises, up to so many steps, whatever an epoch is: it is
    validated every `validate_steps`. With `average` validation and result are the exponential moving average of the
    weights (Polyak and Juditsky 1992), which a constant rate needs to settle.
    """

    tasks: int = Field(default=64, ge=1, description="episodes of a step")
    epochs: int = Field(default=30, ge=1, description="passes over the training entities")
    least_steps: int = Field(default=0, ge=0, description="more epochs where these would be fewer steps")
    most_steps: int = Field(default=0, ge=0, description="most steps of a run that ends by patience; 0: by epochs")
    validate_steps: int = Field(default=50, ge=1, description="steps between validations, where most_steps is given")
    average: float = Field(default=0.0, ge=0, lt=1, description="decay of the average of the weights; 0: none")
    rate: float = Field(default=3e-3, gt=0, description="rate of AdamW in the outer loop")
    schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="whether the rate stays or falls to nothing along a cosine"
    )
    hyper_rate: float = Field(
        default=0.0, ge=0, le=1, description="speed at which the rate follows its hyper-gradient; 0: the schedule alone"
    )
    warmup: int = Field(default=0, ge=0, description="steps over which the rate rises from nothing")
    clip: float = Field(default=5.0, gt=0, description="largest norm of the meta-gradient")
    patience: int = Field(default=5, ge=1, description="validations without gain after which a run ends")
    validate_every: int = Field(default=1, ge=1, description="epochs between validations")
    validate_entities: int = Field(default=400, ge=1, description="meta-validation entities looked at")
    checkpoint_every: int = Field(default=0, ge=0, description="steps between checkpoints; 0: each epoch")
    keep: int = Field(default=3, ge=1, description="checkpoints kept")
    shard_above: int | None = Field(
        default=None,
        ge=0,
        description="numbers (rows times width) above which several processes share a table, each holding some of its "
        "rows; 0: never, none: by the memory of the machines",
    )


class CurriculumConfig(_RecipeSection):
    """Curriculum by name and settings.

    With `watch` the hardness of each meta-batch is measured and recorded even if the curriculum does not need it.
    `probe` estimates the difficulty of tasks for a curriculum from easy to hard: the learner is trained on each task
    "alone", or one copy of it on all tasks ("brief"), for `probe_steps` steps.
    """

    name: str = Field(default="uniform", description="curriculum that draws the tasks of a step")
    config: dict[str, Any] = Field(default={}, description="settings of the curriculum")
    watch: bool = Field(
        default=False, description="measure and record how hard tasks are, even if the curriculum does not need it"
    )
    probe: Literal["brief", "alone"] = Field(
        default="brief",
        description="how difficult a task is estimated to be: by one learner for all, or one for each alone",
    )
    probe_steps: int = Field(default=30, ge=0, description="steps of training for that estimate")


class EnsembleMembers(_RecipeSection):
    """Baselines that may stand beside the learner in an ensemble; none: the learner stands alone.

    Each is tuned on meta-validation; one that does not serve the objective, or whose input the data lack, is left out.
    """

    members: tuple[str, ...] = Field(
        default=(),
        description="baselines that may stand beside the learner; those that do not fit the data are left out",
    )


class NewItemConfig(_RecipeSection):
    """Choices for items that come after a training; see `docs/items.md`."""

    choose: bool = Field(
        default=True,
        description="choose on meta-validation, with items held out, what new items are ranked by and where they "
        "stand; false: the defaults",
    )


class RaceConfig(_RecipeSection):
    """Short races before a run: the learner is trained with each of `settings` for `steps` steps, and goes on with the
    one that is best on meta-validation."""

    steps: int = Field(default=200, ge=1, description="steps of each race")
    settings: tuple[dict[str, Any], ...] = Field(
        default=(), description="settings of config that are raced on meta-validation; none: no race"
    )


class Recipe(_RecipeSection):
    """Settings of one meta-training run. `config` is checked by the learner's own configuration class."""

    name: str = Field(
        min_length=1, pattern=r"^[A-Za-z0-9_.\-]+$", description="name of the recipe, which runs and results carry"
    )
    learner: str = Field(description="learner by name")
    config: dict[str, Any] = Field(default={}, description="settings of the learner")
    episodes: EpisodeConfig = EpisodeConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    train: TrainConfig = TrainConfig()
    curriculum: CurriculumConfig = CurriculumConfig()
    race: RaceConfig = RaceConfig()
    ensemble: EnsembleMembers = EnsembleMembers()
    new_items: NewItemConfig = NewItemConfig()

    @model_validator(mode="before")
    @classmethod
    def _without_settled_changes(cls, raw: Any) -> Any:
        """Drop the section `few` of a run that an earlier version stored: its changes are made in it already."""
        if isinstance(raw, Mapping) and isinstance(raw.get("few"), Mapping) and not raw["few"].get("below"):
            return {k: v for k, v in raw.items() if k != "few"}
        return raw


def read_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a TOML recipe and apply `key=value` overrides. Raises ConfigError naming every wrong key."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from None
    return recipe_of(raw, overrides, where=str(path))


def recipe_of(raw: Mapping[str, Any], overrides: Iterable[str] = (), where: str = "recipe") -> Recipe:
    """Build a recipe from plain data; see `read_recipe`. `where` names its origin in errors."""
    tree: dict[str, Any] = copy.deepcopy(dict(raw))
    for text in overrides:
        _override(tree, text)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain_errors(error, *_known_keys())}") from None


def _known_keys() -> tuple[dict[str, list[str]], dict[str, str]]:
    """Keys of each section, "" of the recipe itself, and for each key of a section where it belongs."""
    keys, places = {"": list(Recipe.model_fields)}, dict[str, str]()
    for name, field in Recipe.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys[name] = list(field.annotation.model_fields)
            places |= dict.fromkeys(keys[name], f"under [{name}]")
    return keys, places


def _override(content: dict[str, Any], text: str) -> None:
    tree: Any = content
    key, separator, value = text.partition("=")
    path = key.strip().split(".")
    if not separator or not all(path):
        raise ConfigError(f"--set {text!r} is not key=value, for example train.epochs=10")
    for name in path[:-1]:
        tree = _table_in(tree, name)
        if not isinstance(tree, dict | list):
            raise ConfigError(f"--set {text!r}: '{name}' is a value, not a table")
    if isinstance(tree, list):
        raise ConfigError(f"--set {text!r}: '{path[-2]}' is a list; give all of it, or a key of one of its tables")
    tree[path[-1]] = _value(value.strip())
    # A number of epochs asks for a run of just that length, which does not begin with a race.
    if path == ["train", "epochs"]:
        content["train"] |= {"most_steps": 0, "least_steps": 0}
        content.pop("race", None)
    # A setting given by name is not raced.
    race = content.get("race")
    if len(path) == 2 and path[0] == "config" and isinstance(race, dict) and isinstance(race.get("settings"), list):
        race["settings"] = [{k: v for k, v in s.items() if k != path[1]} for s in race["settings"]]


def _table_in(tree: Any, name: str) -> Any:
    """Table under a name, or in a list the one with that number, from 0 on; a table that is missing is made."""
    if isinstance(tree, list):
        return tree[int(name)] if name.isdecimal() and int(name) < len(tree) else None
    return tree.setdefault(name, {})


def _value(text: str) -> Any:
    """Parse a TOML value; text that is none stays text."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text
