"""Estimates with their uncertainty: a confidence interval, and a paired difference with its p-value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ConfidenceInterval:
    """Value of a metric with its 95% interval over n entities, those of every seed counted."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference of two methods on the same n entities, its 95% interval and a two-sided p-value."""

    difference: float
    low: float
    high: float
    p: float
    n: int
