"""Warm start of a training from a trained model: the parameters that both know, new items from their content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FIRST, IntArray, Params
from recsys_meta.models.bundle import Bundle
from recsys_meta.models.ensemble.ensemble import Ensemble
from recsys_meta.models.functional.item_content import ItemContent, unit_rows
from recsys_meta.models.functional.linear_algebra import truncated_svd
from recsys_meta.models.functional.prefixed_keys import select_prefix
from recsys_meta.models.protocols import Learner, Predictor

CONTENT_DIMS, PENALTY = 64, 1.0
"""Columns that content is reduced to, and the penalty of the regression on them in units of a column's mean square."""

_SPACES = {"items": "item", "entity": "entity", "context": "context"}
"""Id spaces by the first part of the name of an embedding table."""


class CarriedRows(NamedTuple):
    """Rows of a table that were carried, and all that it has."""

    carried: int
    rows: int


@dataclass(frozen=True)
class CarriedParameters:
    """Record of what a warm start took over: rows of tables by id space, whole parameters, and those that started anew.

    `from_content` are items that the model did not know and that start where their content says.
    """

    version: str
    spaces: Mapping[str, CarriedRows] = field(default_factory=dict)
    whole: tuple[str, ...] = ()
    anew: tuple[str, ...] = ()
    from_content: int = 0

    def describe(self) -> str:
        """Describe it in one line."""
        parts = [f"{c.carried:,} of {c.rows:,} values of {space}" for space, c in sorted(self.spaces.items())]
        parts += [f"{len(self.whole)} parameters of all"] if self.whole else []
        parts += [f"{self.from_content:,} new items start from their content"] if self.from_content else []
        parts += [f"anew: {', '.join(self.anew)}"] if self.anew else []
        return f"carried from {self.version}: {'; '.join(parts)}"


def trained_part(bundle: Bundle, learner: Learner) -> tuple[Predictor, Params]:
    """Return the trained predictor of a bundle, which may be a member of an ensemble, and its parameters.

    Raises ConfigError for another kind of learner or another size.
    """
    predictor, params = bundle.predictor, bundle.params
    if isinstance(predictor, Ensemble):
        predictor, params = predictor.members[0], select_prefix(params, 0)
    if predictor.name != learner.name:
        raise ConfigError(
            f"the model {bundle.version} is of '{predictor.name}', and the recipe trains '{learner.name}': "
            f"a warm start needs a recipe of '{predictor.name}'"
        )
    return predictor, params


def carry_parameters(
    params: Params, learner: Learner, bundle: Bundle, data: Dataset
) -> tuple[Params, CarriedParameters]:
    """Replace what a bundle knows of fresh parameters; buffers, which follow from the data, stay.

    Rows of tables are matched by value: items by id, or by title where the bundle is of another data set. Raises
    ConfigError as `trained_part`, and where a parameter has another width.
    """
    predictor, old = trained_part(bundle, learner)
    result, spaces, whole, anew, content = dict(params), dict[str, CarriedRows](), list[str](), list[str](), 0
    matches: dict[str, IntArray] = {}
    for key in sorted(params):
        if learner.is_frozen(key):
            continue
        fresh, trained = params[key], old.get(key)
        place = None if trained is None else _table_of(key, fresh, trained, bundle, data)
        if trained is None or (place is None and fresh.shape != trained.shape):
            if trained is not None and trained.dim() == fresh.dim() and _is_of_model(fresh, trained):
                raise ConfigError(_describe_sizes(key, fresh, trained, learner, predictor))
            anew.append(key)
            continue
        if place is not None and not place[0]:
            anew.append(key)
            continue
        if place is None:
            result[key] = trained.to(fresh, copy=True)  # training changes them in place, and the model stays
            whole.append(key)
            continue
        space, axis = place
        if _without(fresh.shape, axis) != _without(trained.shape, axis):
            raise ConfigError(_describe_sizes(key, fresh, trained, learner, predictor))
        match = matches.setdefault(space, _match(space, bundle, data))
        result[key] = _carry_rows(fresh, trained.to(fresh), match, axis)
        spaces[space] = CarriedRows(int((match[FIRST:] >= FIRST).sum()), len(match) - FIRST)
        if space == "item" and axis == 0 and fresh.dim() == 2:
            result[key], content = _start_from_content(result[key], match, data)
    return result, CarriedParameters(bundle.version, spaces, tuple(whole), tuple(anew), content)


def _is_of_model(fresh: Tensor, trained: Tensor) -> bool:
    """True where sizes differ by the model's configuration, not by the values that tables have rows for."""
    return len(fresh) == len(trained)


def _without(shape: torch.Size, axis: int) -> tuple[int, ...]:
    return tuple(n for i, n in enumerate(shape) if i != axis)


def _describe_sizes(key: str, fresh: Tensor, trained: Tensor, learner: Learner, predictor: Predictor) -> str:
    ours, theirs = learner.config.model_dump(), predictor.config.model_dump()
    other = [f"{name}={theirs[name]}" for name in ours if name in theirs and ours[name] != theirs[name]]
    hint = f": --set config.{' --set config.'.join(other)} as the model has" if other else ""
    return f"'{key}' of the model has the shape {list(trained.shape)}, and that of the recipe {list(fresh.shape)}{hint}"


def _table_of(key: str, fresh: Tensor, trained: Tensor, bundle: Bundle, data: Dataset) -> tuple[str, int] | None:
    """Return the id space whose values a parameter has rows for, and their axis; None where it has no such rows.

    The space is empty where rows cannot be told apart, since a table has fewer than there are values.
    """
    table, _, name = key.partition(".")
    space = f"{_SPACES.get(table, '')}.{name}"
    known = (bundle.vocab.values, data.vocab.values)
    if all(space in values for values in known):
        sizes = bundle.vocab.size(space), data.vocab.size(space)
        return (space, 0) if (len(trained), len(fresh)) == sizes else ("", 0)
    sizes = bundle.vocab.size("item"), data.catalogue
    axes = [a for a in range(fresh.dim()) if a < trained.dim() and (trained.shape[a], fresh.shape[a]) == sizes]
    return ("item", axes[0]) if axes else None


def _match(space: str, bundle: Bundle, data: Dataset) -> IntArray:
    """Padded id in the bundle of each padded id of the data; -1 for values that the bundle does not know."""
    ours, theirs = list(data.vocab.values[space]), list(bundle.vocab.values[space])
    if space == "item" and data.schema.name != bundle.schema.name:
        titles = data.about.get("titles")
        ours, theirs = _titles(ours, titles if isinstance(titles, Mapping) else {}), _titles(theirs, bundle.titles)
    position = {value: i + FIRST for i, value in enumerate(theirs) if value}
    rows = [position.get(value, -1) if value else -1 for value in ours]
    return np.array([*range(FIRST), *rows], np.int64)


def _titles(names: Sequence[str], titles: Mapping[str, str]) -> list[str]:
    """Titles of items, empty for one without."""
    return [titles.get(name, "") for name in names]


def _carry_rows(fresh: Tensor, trained: Tensor, match: IntArray, axis: int) -> Tensor:
    """Take the rows of known values; other rows are moved by the mean change of the known ones."""
    known, row = torch.from_numpy(np.flatnonzero(match >= 0)), torch.from_numpy(match[match >= 0])
    result, source = fresh.clone().transpose(0, axis), trained.transpose(0, axis)[row]
    real = known >= FIRST
    if axis and bool(real.any()):  # statistics such as a popularity, which start from the data
        result[FIRST:] += (source[real] - result[known[real]]).mean(0)
    result[known] = source
    return result.transpose(0, axis).contiguous()


def _start_from_content(table: Tensor, match: IntArray, data: Dataset) -> tuple[Tensor, int]:
    """Start the rows [C, W] of items that were not carried at the ridge regression of those that were on content."""
    known, new = np.flatnonzero(match >= FIRST), np.flatnonzero(match < 0)
    content = ItemContent.of(data, known) if len(known) > 1 and len(new) else None
    if content is None or not content.names:
        return table, 0
    rows = unit_rows(content.rows(content.names, 2))
    basis = truncated_svd(rows[known], min(CONTENT_DIMS, *rows[known].shape), seed=0).numpy()
    x, target = np.asarray(rows[known] @ basis, np.float64), table[torch.from_numpy(known)].double().cpu().numpy()
    centre, mean = x.mean(0), target.mean(0)
    gram = (x - centre).T @ (x - centre)
    matrix = gram + (PENALTY * np.trace(gram) / len(gram) + 1e-9) * np.eye(len(gram))
    slope = np.linalg.solve(matrix, (x - centre).T @ (target - mean))
    result = table.clone()
    result[torch.from_numpy(new)] = torch.from_numpy((np.asarray(rows[new] @ basis) - centre) @ slope + mean).to(table)
    return result, len(new)
