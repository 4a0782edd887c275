"""Identity of a worker, by which others tell whether it still lives."""

from __future__ import annotations

import os
import secrets
import socket
from datetime import UTC, datetime, timedelta

from recsys_meta.store.tracking.tables import TuningTrialRecord

HEARTBEAT_S = 10.0
"""Seconds between two signs of life of a worker."""
SILENCE = timedelta(seconds=120)
"""Silence after which a worker is taken for dead, wherever it ran."""


def new_worker_name() -> str:
    """Name of a worker of this process: host, process, and what no other worker has."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def is_dead(trial: TuningTrialRecord, now: datetime | None = None) -> bool:
    """True for a trial whose worker has been silent, or was a process of this host that is gone."""
    if (now or datetime.now(UTC)) - trial.heartbeat > SILENCE:
        return True
    host, _, rest = trial.worker.rpartition(":")[0].rpartition(":")
    return host == socket.gethostname() and rest.isdecimal() and not _is_alive(int(rest))


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
