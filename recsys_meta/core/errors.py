"""What can go wrong, in words a user can act on.

Every error that a user's input can cause is one of these; doors turn them into exit code 1 or a problem
document and show nothing but the message. Anything else that escapes is a bug of ours.
"""

from __future__ import annotations


class RecsysMetaError(Exception):
    """Base of all expected errors. The message says what was wrong and what to do about it."""


class DataError(RecsysMetaError):
    """A raw or prepared data file is wrong; says where (file, line, field) and the remedy."""

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
        where = [str(file)] if file is not None else []
        where += [f"line {line}"] if line is not None else []
        where += [f"field '{field}'"] if field is not None else []
        text = f"{', '.join(where)}: {problem}" if where else problem
        super().__init__(f"{text}. {remedy}" if remedy else text)


class ConfigError(RecsysMetaError):
    """A recipe, a schema or an option is wrong."""


class CheckpointError(RecsysMetaError):
    """A checkpoint or bundle is missing, damaged or belongs to something else."""


class DivergedError(RecsysMetaError):
    """Training met a value that is not a number; the last good checkpoint is kept."""


class StoreError(RecsysMetaError):
    """The database could not do what was asked."""


class NotFoundError(RecsysMetaError):
    """What was asked for by name does not exist."""


class ConflictError(RecsysMetaError):
    """The request contradicts what is stored."""
