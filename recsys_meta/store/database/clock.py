"""The present, in one place so that callers and tests can pass a moment of their own."""

from datetime import UTC, datetime


def utcnow(time: datetime | None = None) -> datetime:
    """The given time, or now in UTC."""
    return datetime.now(UTC) if time is None else time
