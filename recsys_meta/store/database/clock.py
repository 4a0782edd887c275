"""The current time, in one place so that callers and tests can pass another."""

from datetime import UTC, datetime


def utcnow(time: datetime | None = None) -> datetime:
    """Return the given time, or the current time in UTC."""
    return datetime.now(UTC) if time is None else time
