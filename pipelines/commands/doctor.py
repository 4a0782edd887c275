"""`recsys-meta doctor`: check of an installation, one line for each part of it."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import torch
import typer

from pipelines.console import Json, print_json, print_table
from pipelines.workspace import Workspace
from recsys_meta import __version__
from recsys_meta.core.errors import RecsysMetaError
from recsys_meta.store.cache.redis_cache import SyncRedisCache
from recsys_meta.store.database.migrate import current_revision
from recsys_meta.store.model_registry.registry import page_models

Check = tuple[str, str, str]


def doctor(as_json: Json = False) -> None:
    """Check packages, data, database, cache and models; exit 1 when something that is set up does not work."""
    workspace = Workspace()
    checks: list[Check] = [
        ("recsys-meta", "ok", __version__),
        ("python", "ok", platform.python_version()),
        ("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads, cuda {torch.cuda.is_available()}"),
        _check_package("implicit", "the iALS baselines"),
        _check_package("psycopg", "PostgreSQL"),
        _check_package("optuna", "recsys-meta tune"),
        _run_check("home", lambda: _check_home(workspace)),
        _run_check("data", lambda: _check_data(workspace)),
        _run_check("database", lambda: _check_database(workspace)),
        _run_check("cache", lambda: _check_cache(workspace)),
        _run_check("models", lambda: _check_models(workspace)),
    ]
    if as_json:
        print_json([dict(zip(("what", "state", "detail"), c, strict=True)) for c in checks])
    else:
        print_table("recsys-meta doctor", ("what", "state", "detail"), checks)
    if any(state == "failed" for _, state, _ in checks):
        raise typer.Exit(1)


def _run_check(what: str, check: Callable[[], str]) -> Check:
    try:
        return what, "ok", check()
    except (RecsysMetaError, OSError) as error:
        detail = str(error) if isinstance(error, RecsysMetaError) else type(error).__name__
        return what, "failed", detail


def _check_package(package: str, purpose: str) -> Check:
    try:
        return package, "ok", version(package)
    except PackageNotFoundError:
        return package, "absent", f"only needed for {purpose}"


def _check_home(workspace: Workspace) -> str:
    home = workspace.settings.home
    home.mkdir(parents=True, exist_ok=True)
    probe = home / ".doctor"
    probe.touch()
    probe.unlink()
    return f"{home.resolve()} can be written"


def _check_data(workspace: Workspace) -> str:
    names = sorted(p.parent.name for p in workspace.settings.prepared.glob("*/dataset.json"))
    raw = workspace.settings.data
    source = f"raw data in {raw}" if raw else "RECSYS_META_DATA is not set"
    return f"{source}; prepared: {', '.join(names) or 'none'}"


def _check_database(workspace: Workspace) -> str:
    kind = workspace.settings.database.partition(":")[0]
    _ = workspace.engine
    revision = current_revision(workspace.settings.database)
    if revision is None:
        raise RecsysMetaError("the database has no tables; run `recsys-meta db upgrade`")
    return f"{kind}, revision {revision}"


def _check_cache(workspace: Workspace) -> str:
    url = workspace.settings.redis
    if url is None:
        return "in-process (RECSYS_META_REDIS_URL is not set)"
    cache = SyncRedisCache(url, timeout=2.0)
    try:
        return f"Redis {cache.version()}"
    finally:
        cache.close()


def _check_models(workspace: Workspace) -> str:
    with workspace.reading() as session:
        models = page_models(session)
    return ", ".join(f"{m.name}@{m.live}" for m in models) or "none published yet"


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(doctor)
