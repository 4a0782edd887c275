"""Failures of single methods in a comparison, which goes on without them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipelines.experiments.comparison import MethodFailure
from pipelines.experiments.training_steps import TrainingInterruption
from recsys_meta.core.errors import RecsysMetaError

_LOG = logging.getLogger(__name__)


def reason_of(error: Exception, where: str) -> str:
    """Return what a user is told of an error; one that nobody foresaw is logged with its place in the code."""
    if isinstance(error, RecsysMetaError):
        return str(error)
    # A bug of one method must not cost what all others took hours for.
    _LOG.error("%s", where, exc_info=error)
    return f"unexpected {type(error).__name__}: {error}"


class MethodFailures:
    """Failures of a comparison's methods, by name, each with the seed and the reason of the first.

    Without `keep_going` an error ends the comparison, as it would without this class.
    """

    def __init__(self, keep_going: bool, notify: Callable[[str], None]) -> None:
        self._keep_going, self._notify = keep_going, notify
        self._failures: dict[str, MethodFailure] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._failures

    def __iter__(self) -> Iterator[MethodFailure]:
        return iter(self._failures.values())

    @contextmanager
    def catch(self, name: str, seed: int) -> Iterator[None]:
        """Catch an error of the block as the failure of a method; interruptions are none."""
        try:
            yield
        except TrainingInterruption:
            raise
        except Exception as error:
            if not self._keep_going:
                raise
            reason = reason_of(error, f"{name}, seed {seed}")
            self._failures[name] = MethodFailure(name, seed, reason)
            self._notify(f"{name} failed and is left out: {reason}")

    def require_some(self, remaining: int) -> None:
        """Raise RecsysMetaError with every reason where no method remains."""
        if self._failures and not remaining:
            reasons = "; ".join(f"{f.method}: {f.reason}" for f in self)
            raise RecsysMetaError(f"every method failed: {reasons}")
