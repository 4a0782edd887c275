"""`recsys-meta serve`: the API under uvicorn."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
import uvicorn

from pipelines.console import Json, err, print_json
from pipelines.workspace import Workspace
from recsys_meta.core.errors import ConfigError, StoreError
from recsys_meta.store.access.api_keys import active_keys
from recsys_meta.store.cache.redis_cache import RedisCache
from recsys_meta.store.config_entries import parse_api_keys, parse_fresh_policies, parse_rate_limit
from recsys_meta.store.settings import Settings

KEEP_ALIVE_S = 75
"""Seconds that an idle connection stays open."""

DESCRIPTORS = 16_384
"""Open descriptors that a server asks the system for, where its soft limit is lower: one for each connection."""

MULTIPROC_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Variable with the folder of prometheus_client's multiprocess mode, which reads it when it is imported."""


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond loopback only with an API key set.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    as_json: Json = False,
) -> None:
    """Serve the published models; pages for people are at /ui/, the API's own at /docs."""
    workspace = Workspace()
    _check_settings(workspace.settings)
    if not _is_loopback(host) and not workspace.settings.keys and not _has_stored_key(workspace):
        raise ConfigError(
            f"{host} can be reached from other machines and there is no API key; "
            "make one with `recsys-meta keys create`, set RECSYS_META_API_KEYS, or use --host 127.0.0.1"
        )
    # Opening the engine upgrades a SQLite file to the newest revision before the first worker reads it.
    _ = workspace.engine
    _raise_descriptor_limit()
    with _metrics_folder(workspace, workers):
        _announce_url(f"http://{host}:{port}", as_json)
        _run_uvicorn(host, port, workers)


def _announce_url(url: str, as_json: bool) -> None:
    """Print the address before the server listens on it."""
    if as_json:
        print_json({"url": url, "page": f"{url}/docs", "pages": f"{url}/ui/"})
        sys.stdout.flush()
    else:
        err.print(f"serving on {url}  (pages: {url}/ui/, API: {url}/docs)")


def _raise_descriptor_limit() -> None:
    """Let this process and its workers hold as many connections as the system allows: shells set a low soft limit."""
    try:
        import resource  # not on every system
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _run_uvicorn(host: str, port: int, workers: int) -> None:
    try:
        # A factory by name: each worker process builds its own app, and `pipelines` does not import `api`.
        uvicorn.run(
            "api.app:create_app",
            factory=True,
            host=host,
            port=port,
            workers=workers,
            http="api.http.uvicorn_protocol:BoundedHttpProtocol",  # by name as well
            # No WebSockets: an upgrade would be handed to a protocol with other bounds.
            ws="none",
            access_log=False,
            log_level="warning",
            # A stuck connection must not keep a stopped server alive.
            timeout_graceful_shutdown=10,
            # Longer than proxies and clients keep idle connections (mostly 5 s, at most 60): the side that closes first
            # may close while a request is in transit.
            timeout_keep_alive=KEEP_ALIVE_S,
        )
    except SystemExit as ended:  # uvicorn exits with 3 if it could not start, after logging why
        raise typer.Exit(1 if ended.code else 0) from None


def _check_settings(settings: Settings) -> None:
    """Raise ConfigError for a setting that cannot be parsed: each worker would end in a traceback and be restarted."""
    parse_api_keys(settings.keys)
    if settings.rate_limit:
        parse_rate_limit(settings.rate_limit)
    parse_fresh_policies(settings.fresh)
    _check_redis(settings.redis)


def _check_redis(url: str | None) -> None:
    try:
        if url is not None:
            RedisCache(url)  # opens no connection yet
    except StoreError as error:
        raise ConfigError(f"RECSYS_META_REDIS_URL: {error}") from None


@contextmanager
def _metrics_folder(workspace: Workspace, workers: int) -> Iterator[None]:
    """Provide an empty folder for the metrics of several workers: those of an earlier start would be counted again."""
    if workers == 1 or MULTIPROC_VARIABLE in os.environ:
        yield
        return
    home = workspace.settings.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="metrics-", dir=home, ignore_cleanup_errors=True) as folder:
        os.environ[MULTIPROC_VARIABLE] = folder
        try:
            yield
        finally:
            del os.environ[MULTIPROC_VARIABLE]


def _has_stored_key(workspace: Workspace) -> bool:
    """Return whether the database has a valid API key. Raises StoreUnavailable rather than assume that it has one."""
    now = datetime.now(UTC)
    with workspace.reading() as session:
        return any(row.expires is None or row.expires > now for row in active_keys(session))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(serve)
