"""Reference of a recipe: every key that it may have, with its type, default, value and meaning."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.json_text import dump_json
from recsys_meta.models.learners import LEARNERS
from recsys_meta.training.curricula import curriculum_settings
from recsys_meta.training.recipe import Recipe

_BOUNDS = (
    ((annotated_types.Ge, "ge", "from {}"), (annotated_types.Gt, "gt", "above {}")),
    (
        (annotated_types.Le, "le", "to {}"),
        (annotated_types.Lt, "lt", "below {}"),
    ),
)
_TYPE_NAMES: Mapping[Any, str] = {str: "text", bool: "true or false", int: "whole number", float: "number"}
_PLAIN_NAMES = {kind.__name__: name for kind, name in _TYPE_NAMES.items()}


@dataclass(frozen=True)
class KeyReference:
    """Key of a recipe as TOML has it. `default` and `value` are JSON; None: there is none, so it must be given."""

    key: str
    type: str
    default: str | None
    value: str | None
    meaning: str


def recipe_reference(recipe: Recipe | None = None) -> list[KeyReference]:
    """Keys of all sections; with a recipe also those of its learner and its curriculum, and the value that each has.

    Raises ConfigError for a learner or a curriculum that is unknown or cannot be used.
    """
    keys: list[KeyReference] = []
    for name, field in Recipe.model_fields.items():
        section, value = field.annotation, None if recipe is None else getattr(recipe, name)
        if isinstance(section, type) and issubclass(section, BaseModel):
            keys += _model_keys(name, section, None if value is None else value.model_dump(mode="json"))
            if recipe is not None and name == "curriculum":
                keys += _curriculum_keys(recipe)
        elif name == "config" and recipe is not None:
            keys += _config_keys(recipe)
        else:
            keys.append(_key_reference(name, Recipe, field, value))
    return keys


def _config_keys(recipe: Recipe) -> Iterator[KeyReference]:
    if recipe.learner not in LEARNERS:
        raise ConfigError(f"no learner '{recipe.learner}'; there are {', '.join(sorted(LEARNERS))}")
    return _model_keys("config", LEARNERS[recipe.learner].Config, recipe.config)


def _curriculum_keys(recipe: Recipe) -> Iterator[KeyReference]:
    settings = recipe.curriculum.config
    for parameter in curriculum_settings(recipe.curriculum.name):
        default = None if parameter.default is inspect.Parameter.empty else dump_json(parameter.default)
        value = dump_json(settings[parameter.name]) if parameter.name in settings else default
        kind = _PLAIN_NAMES.get(str(parameter.annotation), str(parameter.annotation))
        meaning = f"setting of the curriculum '{recipe.curriculum.name}'"
        yield KeyReference(f"curriculum.config.{parameter.name}", kind, default, value, meaning)


def _model_keys(prefix: str, model: type[BaseModel], values: Mapping[str, Any] | None) -> Iterator[KeyReference]:
    for name, field in model.model_fields.items():
        reference = _key_reference(f"{prefix}.{name}", model, field, None if values is None else values.get(name))
        yield reference


def _key_reference(key: str, model: type[BaseModel], field: FieldInfo, value: Any) -> KeyReference:
    default = None if field.is_required() else dump_json(_plain(field.get_default(call_default_factory=True)))
    given = default if value is None else dump_json(_plain(value))
    return KeyReference(key, _describe_type(field), default, given, _meaning(model, key.rpartition(".")[2]))


def _meaning(model: type[BaseModel], name: str) -> str:
    """Description of a field, where it overrides one without its own that of the class above."""
    for kind in model.__mro__:
        field = getattr(kind, "model_fields", {}).get(name)
        if field is not None and field.description:
            return str(field.description)
    return ""


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _describe_type(field: FieldInfo) -> str:
    ends = [
        text.format(f"{getattr(bound, attribute):g}")
        for bounds in _BOUNDS
        for bound in field.metadata
        for kind, attribute, text in bounds
        if isinstance(bound, kind)
    ]
    return " ".join([_name_type(field.annotation), *ends])


def _name_type(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " | ".join(dump_json(a) for a in arguments)
    if origin in (Union, types.UnionType):
        return " | ".join("none" if a is type(None) else _name_type(a) for a in arguments)
    if origin in (tuple, list):
        return f"list of {_name_type(arguments[0])}"
    if kind in _TYPE_NAMES:
        return _TYPE_NAMES[kind]
    return "table"
