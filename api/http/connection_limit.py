"""Number of connections that a process may hold: fewer than its descriptors, which the stores and files need too."""

from __future__ import annotations

from functools import cache

MAX_CONNECTIONS = 8192
"""Bound on the connections of a process, where the system allows as many."""

_RESERVED_SHARE = 4  # one descriptor of so many is left to the database, Redis, files and other sockets
_MIN_LIMIT = 16


@cache
def connection_limit() -> int:
    """Return the most connections of this process, by its limit of open descriptors when first asked."""
    try:
        import resource  # not on every system
    except ImportError:
        return MAX_CONNECTIONS
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if descriptors == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(_MIN_LIMIT, min(MAX_CONNECTIONS, descriptors - descriptors // _RESERVED_SHARE))
