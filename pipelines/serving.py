"""`recsys-meta serve`: the API under uvicorn."""

from __future__ import annotations

import ipaddress
from typing import Annotated

import typer
import uvicorn

from pipelines.console import err
from pipelines.workspace import Workspace
from recsys_meta.errors import ConfigError


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond loopback only with an API key set.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Serve the published models; the API's own page is at /docs."""
    workspace = Workspace()
    if not workspace.settings.keys and not _loopback(host):
        raise ConfigError(
            f"{host} can be reached from other machines and no API key is set; "
            "set RECSYS_META_API_KEYS or use --host 127.0.0.1"
        )
    # Opening the engine brings our own SQLite file to the newest revision before the first worker looks at it.
    _ = workspace.engine
    err.print(f"serving on http://{host}:{port}  (API page: http://{host}:{port}/docs)")
    # A factory by name, so that each worker process makes its own; doors do not import each other.
    uvicorn.run(
        "api.app:create_app",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        access_log=False,
        log_level="warning",
        # A stuck connection must not keep a stopped server alive.
        timeout_graceful_shutdown=10,
    )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def add_to(app: typer.Typer) -> None:
    """Mount the command."""
    app.command()(serve)
