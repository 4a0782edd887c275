"""Task augmentation: episodes of training are changed, so that a learner cannot know tasks by heart.

Rows of supports are left out, labels of supports are disturbed (Rajendran, Irpan & Jang 2020), and tasks are mixed: a
task takes over half of another's rows, in support and query alike (after Yao et al. 2022). Queries keep their labels:
what is to be predicted stays true. Meta-validation is never augmented.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import Objective
from recsys_meta.core.types import Interactions, TaskBatch
from recsys_meta.training.recipe import AugmentationConfig


def check_augmentation(settings: AugmentationConfig, objective: Objective) -> None:
    """Raise ConfigError for a setting that has no meaning under an objective."""
    if objective == "choice" and settings.mix:
        raise ConfigError(
            "augmentation.mix: tasks of objective choice have catalogues of their own and cannot be mixed"
        )
    if objective in ("choice", "ranking") and settings.label_noise:
        raise ConfigError(f"augmentation.label_noise: supports of objective {objective} have no labels to disturb")
    if objective == "click" and settings.label_noise > 1:
        raise ConfigError("augmentation.label_noise: of clicks it is a share of labels that are turned, at most 1")


def augment_tasks(
    batch: TaskBatch, settings: AugmentationConfig, objective: Objective, generator: torch.Generator
) -> TaskBatch:
    """Augment the tasks of a meta-batch; without settings it is the batch itself, and nothing is drawn."""
    if settings.mix:
        batch = _mix_tasks(batch, settings.mix, generator)
    rows = batch.support.rows
    if settings.drop_rows:
        rows = replace(rows, mask=rows.mask & (_uniform(rows.mask.shape, generator) >= settings.drop_rows))
    if settings.label_noise:
        rows = replace(rows, label=_disturb(rows.label, settings.label_noise, objective, generator))
    return batch if rows is batch.support.rows else replace(batch, support=replace(batch.support, rows=rows))


def _mix_tasks(batch: TaskBatch, share: float, generator: torch.Generator) -> TaskBatch:
    tasks = len(batch.entity)
    is_mixed = _uniform((tasks,), generator) < share
    partner = torch.randperm(tasks, generator=generator, device=generator.device)

    def mix(rows: Interactions) -> Interactions:
        other = is_mixed[:, None] & (_uniform(rows.mask.shape, generator) < 0.5)
        return rows.map(lambda t: torch.where(other.reshape(*other.shape, *[1] * (t.dim() - 2)), t[partner], t))

    return replace(batch, support=replace(batch.support, rows=mix(batch.support.rows)), query=mix(batch.query))


def _disturb(label: Tensor, noise: float, objective: Objective, generator: torch.Generator) -> Tensor:
    """Labels [T, S] with Gaussian noise of that deviation; of clicks, that share of them turned."""
    if objective == "click":
        return torch.where(_uniform(label.shape, generator) < noise, 1 - label, label)
    return label + noise * torch.randn(label.shape, generator=generator, device=generator.device)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)
