"""Search spaces: which keys of a recipe are tuned, and between which values; read from TOML.

    [config]
    dims = { low = 16, high = 128, log = true }
    adapts = { values = ["entity", "all"] }

    [train]
    rate = { low = 1e-3, high = 3e-2, log = true }

A space is laid out like the recipe; `"config.dims" = { ... }` says the same as the first two lines.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipelines.tuning.recipe_keys import RecipeKey, recipe_keys, require_key, with_values
from recsys_meta.core.errors import ConfigError, NotFoundError, RecsysMetaError
from recsys_meta.core.schema import explain_errors
from recsys_meta.models.learners import LEARNERS
from recsys_meta.training.recipe import Recipe

Number = int | float


class NumberRange(BaseModel):
    """Numbers from `low` to `high`, both included; with `log` equal ratios are equally likely.

    Whole numbers where the key takes them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    low: Number
    high: Number
    log: bool = False

    @model_validator(mode="after")
    def _check_ends(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low must be less than high, got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range begins above 0, got low = {self.low}")
        return self

    @property
    def ends(self) -> tuple[Any, ...]:
        """The two ends."""
        return self.low, self.high

    def nearest(self, value: Any) -> Any:
        """Nearest value to one that may lie outside; the middle for what is no number."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
            return round(middle) if self.whole else middle
        return type(self.low)(min(max(value, self.low), self.high))

    @property
    def text(self) -> str:
        """Description for tables."""
        return f"{self.low} to {self.high}{' (log)' if self.log else ''}"

    @property
    def whole(self) -> bool:
        """True where the values are whole numbers."""
        return isinstance(self.low, int)


class ValueList(BaseModel):
    """Values to choose from, in no order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    values: tuple[Any, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _check_values(self) -> Self:
        texts = [json.dumps(v) for v in self.values]
        if len(set(texts)) < len(texts):
            raise ValueError("a value is given twice")
        if not all(_is_plain(v) for v in self.values):
            raise ValueError("values are texts, numbers, true or false, or lists of these")
        return self

    @property
    def ends(self) -> tuple[Any, ...]:
        """Every value."""
        return self.values

    @property
    def text(self) -> str:
        """Description for tables."""
        return " | ".join(json.dumps(v) for v in self.values)

    def nearest(self, value: Any) -> Any:
        """The value itself if it is among those to choose from, else the first of them."""
        plain = json.dumps(value)
        return next((v for v in self.values if json.dumps(v) == plain), self.values[0])


Choice = NumberRange | ValueList
CHOICE_KEYS = NumberRange.model_fields.keys() | ValueList.model_fields.keys()


def _is_plain(value: Any) -> bool:
    items = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(item, str | bool | int | float) for item in items)


@dataclass(frozen=True)
class SearchSpace:
    """Choices by the key of the recipe, sorted by key; `where` names the origin in errors."""

    choices: Mapping[str, Choice]
    where: str

    def nearest(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Settings in this space nearest to some values; a key without one gets a middle or first value."""
        return {key: choice.nearest(values.get(key)) for key, choice in self.choices.items()}

    def as_json(self) -> dict[str, Any]:
        """The space as plain data, which `parse_search_space` reads."""
        return {key: choice.model_dump(mode="json") for key, choice in self.choices.items()}


def read_search_space(path: Path) -> SearchSpace:
    """Read a search space. Raises ConfigError that names the file and every wrong key."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from None
    return parse_search_space(raw, str(path))


def parse_search_space(raw: Mapping[str, Any], where: str) -> SearchSpace:
    """Build a search space from plain data. Raises ConfigError that names every wrong key."""
    choices: dict[str, Choice] = {}
    problems = []
    for key, value in sorted(_leaves(raw)):
        try:
            kind: type[NumberRange] | type[ValueList] = ValueList if "values" in value else NumberRange
            choices[key] = kind.model_validate(value)
        except ValidationError as error:
            problems.append(f"{key}: {explain_errors(error)}")
        except TypeError:
            problems.append(f"{key}: expected {{ low, high }} or {{ values }}, got {value!r}")
    if problems:
        raise ConfigError(f"{where}: {'; '.join(problems)}")
    if not choices:
        raise ConfigError(f"{where}: the search space has no keys")
    return SearchSpace(choices, where)


def _leaves(raw: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Choices by dotted key, out of tables in tables."""
    for name, value in raw.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and not value.keys() & CHOICE_KEYS:
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


def space_names() -> list[str]:
    """Names of the search spaces that come with the project."""
    return sorted(p.name.removesuffix(".toml") for p in _spaces().iterdir() if p.name.endswith(".toml"))


def find_search_space(name: str | None, recipe: Recipe) -> SearchSpace:
    """Return a search space by name or .toml file; None takes that of the recipe, or of its learner:
    for one of an installed package its attribute `search_space`, laid out like the file.

    Raises NotFoundError with the known names, ConfigError for bad content.
    """
    names = space_names()
    if name is None:
        name = next((n for n in (recipe.name, recipe.learner) if n in names), None)
        own = getattr(LEARNERS.get(recipe.learner), "search_space", None)
        if name is None and isinstance(own, Mapping):
            return parse_search_space(own, f"search_space of {recipe.learner}")
        if name is None:
            raise NotFoundError(
                f"no search space comes with the project for '{recipe.name}' or its learner '{recipe.learner}'; "
                "write one and give it: --space FILE"
            )
    elif name.endswith(".toml"):
        return read_search_space(Path(name))
    elif name not in names:
        raise NotFoundError(f"no search space '{name}'; there are {', '.join(names)}, or give a .toml file")
    return read_search_space(Path(str(_spaces() / f"{name}.toml")))


def _spaces() -> Any:
    return files("pipelines") / "search_spaces"


def fitted_space(space: SearchSpace, recipe: Recipe, check: Callable[[Recipe], Recipe]) -> SearchSpace:
    """Search space with whole numbers where the recipe's keys take them, after every end was tried.

    `check` raises a RecsysMetaError for a recipe that cannot be trained, and returns it as it would be. Raises
    ConfigError that names every key that is unknown, or has an end that is wrong or changes nothing.
    """
    keys = recipe_keys(recipe)
    choices, problems = {}, []
    for key, choice in space.choices.items():
        try:
            choices[key] = _fitted_choice(choice, require_key(key, keys, space.where), space.where)
        except ConfigError as error:
            problems.append(str(error))
            continue
        problems += _wrong_ends(key, choices[key], recipe, check, space.where)
    if problems:
        raise ConfigError("\n".join(problems))
    return SearchSpace(choices, space.where)


def _fitted_choice(choice: Choice, key: RecipeKey, where: str) -> Choice:
    if not isinstance(choice, NumberRange):
        return choice
    are_whole = isinstance(choice.low, int) and isinstance(choice.high, int)
    kinds = get_args(key.kind) or (key.kind,)
    takes_whole = int in kinds and float not in kinds
    if takes_whole and not are_whole:
        raise ConfigError(f"{where}: {key.name}: takes whole numbers, got {choice.low} to {choice.high}")
    if takes_whole or (key.kind is None and are_whole):
        return choice
    return choice.model_copy(update={"low": float(choice.low), "high": float(choice.high)})


def _wrong_ends(
    key: str, choice: Choice, recipe: Recipe, check: Callable[[Recipe], Recipe], where: str
) -> Iterator[str]:
    recipes = []
    for end in choice.ends:
        try:
            recipes.append(check(with_values(recipe, {key: end})))
        except RecsysMetaError as error:
            yield f"{where}: {key} = {json.dumps(end)}: {error}"
    if len(recipes) == len(choice.ends) and all(r == recipes[0] for r in recipes):
        yield f"{where}: {key}: changes nothing here: the command sets it"
