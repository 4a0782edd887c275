"""`recsys-meta serve`: the API under uvicorn."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
import uvicorn

from pipelines.console import Json, err, print_json
from pipelines.workspace import Workspace
from recsys_meta.core.errors import ConfigError, StoreError
from recsys_meta.store.access.api_keys import active_keys
from recsys_meta.store.cache.redis_cache import RedisCache
from recsys_meta.store.config_entries import parse_api_keys, parse_rate_limit
from recsys_meta.store.settings import Settings

KEEP_ALIVE_S = 75
"""How long a connection that nobody uses stays open, seconds."""

MULTIPROC_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Where prometheus_client keeps the figures of several processes; it looks when it is imported."""


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond loopback only with an API key set.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    as_json: Json = False,
) -> None:
    """Serve the published models; the API's own page is at /docs."""
    workspace = Workspace()
    _check_settings(workspace.settings)
    if not _is_loopback(host) and not workspace.settings.keys and not _has_stored_key(workspace):
        raise ConfigError(
            f"{host} can be reached from other machines and there is no API key; "
            "make one with `recsys-meta keys create`, set RECSYS_META_API_KEYS, or use --host 127.0.0.1"
        )
    # Opening the engine brings our own SQLite file to the newest revision before the first worker looks at it.
    _ = workspace.engine
    with _metrics_folder(workspace, workers):
        _announce_url(f"http://{host}:{port}", as_json)
        _run_uvicorn(host, port, workers)


def _announce_url(url: str, as_json: bool) -> None:
    """Where it will answer, before it does."""
    if as_json:
        print_json({"url": url, "page": f"{url}/docs"})
        sys.stdout.flush()
    else:
        err.print(f"serving on {url}  (API page: {url}/docs)")


def _run_uvicorn(host: str, port: int, workers: int) -> None:
    try:
        # A factory by name, so that each worker process makes its own; doors do not import each other.
        uvicorn.run(
            "api.app:create_app",
            factory=True,
            host=host,
            port=port,
            workers=workers,
            # By name as well. The other protocol there is has a bound on headers of its own.
            http="api.http.uvicorn_protocol:BoundedHttpProtocol" if find_spec("httptools") else "h11",
            # There are none, and whoever asked for one would be handed to a protocol with bounds of its own.
            ws="none",
            access_log=False,
            log_level="warning",
            # A stuck connection must not keep a stopped server alive.
            timeout_graceful_shutdown=10,
            # Longer than proxies and clients keep one that nobody uses (60 s at most, mostly 5): whoever closes first
            # may close on a request that is on its way.
            timeout_keep_alive=KEEP_ALIVE_S,
        )
    except SystemExit as ended:  # uvicorn's own 3: it could not start, and has said why
        raise typer.Exit(1 if ended.code else 0) from None


def _check_settings(settings: Settings) -> None:
    """Raise ConfigError for what cannot be read. Else each worker would end in a traceback, and be started again."""
    parse_api_keys(settings.keys)
    if settings.rate_limit:
        parse_rate_limit(settings.rate_limit)
    _check_redis(settings.redis)


def _check_redis(url: str | None) -> None:
    try:
        if url is not None:
            RedisCache(url)  # reaches for nothing yet
    except StoreError as error:
        raise ConfigError(f"RECSYS_META_REDIS_URL: {error}") from None


@contextmanager
def _metrics_folder(workspace: Workspace, workers: int) -> Iterator[None]:
    """A folder in which workers keep their figures for each other; those of an earlier start would count again."""
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
    """Whether the database has a key that opens anything. Raises Unavailable: what is not known is no yes."""
    now = datetime.now(UTC)
    with workspace.reading() as session:
        return any(row.expires is None or row.expires > now for row in active_keys(session))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def add_to(app: typer.Typer) -> None:
    """Mount the command."""
    app.command()(serve)
