"""Errors that a user's input can cause, with messages that say what to do.

The command line turns them into exit code 1, the HTTP API into a problem document; both show the message only. Any
other exception that escapes is a bug of this project.
"""

from __future__ import annotations

import re


class RecsysMetaError(Exception):
    """Base of all expected errors. The message says what is wrong and what to do about it."""


class DataError(RecsysMetaError):
    """Error in a raw or prepared data file, with its location (file, line, field) and the remedy."""

    def __init__(
        self,
        problem: str,
        *,
        file: object = None,
        line: int | None = None,
        field: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.problem, self.file, self.line, self.field, self.remedy = problem, file, line, field, remedy
        location = [str(file)] if file is not None else []
        location += [f"line {line}"] if line is not None else []
        location += [f"field '{field}'"] if field is not None else []
        text = f"{', '.join(location)}: {problem}" if location else problem
        super().__init__(f"{text}. {remedy}" if remedy else text)


class ConfigError(RecsysMetaError):
    """Error in a recipe, a schema or an option."""


class CheckpointError(RecsysMetaError):
    """Error of a checkpoint or bundle: missing, damaged, or of another run or model."""


class DivergedError(RecsysMetaError):
    """Divergence of a training run: a loss or gradient is not finite. The last good checkpoint stays on disk."""


class ProcessGroupError(RecsysMetaError):
    """Failure of a group of training processes: one of them has ended, or they have come apart."""


class StoreError(RecsysMetaError):
    """Failure of a database operation."""


class NotFoundError(RecsysMetaError):
    """Absence of an object that was requested by name."""


class ConflictError(RecsysMetaError):
    """Conflict of a request with the stored state."""


_CREDENTIALS = re.compile(r"://\S*@")


def describe_os_error(error: OSError) -> str:
    """Describe an error of the operating system in one line: which file, and why."""
    reason = error.strerror or _first_line(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason


def describe_unexpected(error: BaseException) -> str:
    """Describe an error that another library raised in one line, without the credentials of a URL."""
    return f"{type(error).__name__}: {_first_line(error)}".removesuffix(": ")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return _CREDENTIALS.sub("://***@", lines[0])[:300] if lines else ""
