"""`recsys-meta doctor`: check of an installation, one line for each part of it."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import torch
import typer
from sqlalchemy import text

from pipelines.console import Json, print_json, print_table, with_command
from pipelines.workspace import Workspace
from recsys_meta import __version__
from recsys_meta.core.errors import CheckpointError, ConfigError, RecsysMetaError, StoreError
from recsys_meta.data import SOURCES
from recsys_meta.inference.model_trial import try_bundle
from recsys_meta.models.baselines import BASELINES
from recsys_meta.models.learners import LEARNERS
from recsys_meta.store.cache.redis_cache import SyncRedisCache
from recsys_meta.store.database.database_errors import READ_ONLY
from recsys_meta.store.database.database_url import parse_url
from recsys_meta.store.model_registry.guardrail import open_alerts
from recsys_meta.store.model_registry.registry import page_models
from recsys_meta.store.schema_check import check_schema
from recsys_meta.training.curricula import CURRICULA

Check = tuple[str, str, str]

MIN_FREE_BYTES = 200 * 2**20
"""Free space under which a disk counts as full."""


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
        _run_check("plugins", _check_plugins),
        _run_check("home", lambda: _check_home(workspace)),
        _run_check("data", lambda: _check_data(workspace)),
        _run_check("database", lambda: _check_database(workspace)),
        _run_check("cache", lambda: _check_cache(workspace)),
        _run_check("models", lambda: _check_models(workspace)),
        _run_check("alerts", lambda: _check_alerts(workspace)),
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
    except RecsysMetaError as error:
        return what, "failed", with_command(str(error))
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        return what, "failed", where + (error.strerror or type(error).__name__)


def _check_package(package: str, purpose: str) -> Check:
    try:
        return package, "ok", version(package)
    except PackageNotFoundError:
        return package, "absent", f"only needed for {purpose}"


def _check_home(workspace: Workspace) -> str:
    home = workspace.settings.home
    home.mkdir(parents=True, exist_ok=True)
    probe = home / ".doctor"
    probe.write_bytes(bytes(4096))
    probe.unlink()
    free = shutil.disk_usage(home).free
    if free < MIN_FREE_BYTES:
        raise ConfigError(f"{home.resolve()}: only {free // 2**20} MB are free; runs and models need some hundred")
    return f"{home.resolve()} can be written, {free // 2**30} GB free"


def _check_data(workspace: Workspace) -> str:
    names = sorted(p.parent.name for p in workspace.settings.prepared.glob("*/dataset.json"))
    raw = workspace.settings.data
    if raw is not None and not raw.is_dir():
        raise ConfigError(f"RECSYS_META_DATA: {raw} is no folder")
    source = f"raw data in {raw}" if raw else "RECSYS_META_DATA is not set"
    return f"{source}; prepared: {', '.join(names) or 'none'}"


def _check_database(workspace: Workspace) -> str:
    settings = workspace.settings
    kind = parse_url(settings.database).get_backend_name()
    _ = workspace.engine
    revision = check_schema(settings.database, settings.database_options)
    with workspace.session() as session:  # on SQLite this takes the lock of a writer
        if kind == "postgresql" and session.scalar(text("SHOW transaction_read_only")) == "on":
            standby = session.scalar(text("SELECT pg_is_in_recovery()"))
            raise StoreError(f"{READ_ONLY}: " + ("this server is a standby" if standby else "it is set to read only"))
    return f"{kind}, revision {revision}"


def _check_cache(workspace: Workspace) -> str:
    url = workspace.settings.redis
    if url is None:
        return "in-process (RECSYS_META_REDIS_URL is not set)"
    cache = SyncRedisCache(url, timeout=2.0)
    try:
        cache.check()
        return f"Redis {cache.version()}"
    finally:
        cache.close()


def _check_plugins() -> str:
    """Describe what installed packages register. Raises ConfigError with all of it that cannot be used."""
    registered, problems = [], []
    for registry in (LEARNERS, BASELINES, CURRICULA, SOURCES):
        for name in registry.plugin_names:
            try:
                registry[name]
            except ConfigError as error:
                problems.append(str(error))
            else:
                registered.append(f"{registry.noun} {name} of {registry.package(name)}")
    if problems:
        raise ConfigError("; ".join(problems))
    return ", ".join(registered) or "no package registers a learner, baseline, curriculum or data set"


def _check_models(workspace: Workspace) -> str:
    with workspace.reading() as session:
        live = [m for m in page_models(session) if m.live is not None]
    problems = [problem for m in live if (problem := _model_problem(workspace, m.name)) is not None]
    if problems:
        raise CheckpointError("; ".join(problems))
    return ", ".join(f"{m.name}@{m.live}" for m in live) or "none published yet"


def _check_alerts(workspace: Workspace) -> str:
    with workspace.reading() as session:
        alerts = open_alerts(session)
    if alerts:
        raise CheckpointError("; ".join(f"{a.model}@{a.model_version} is {a.rule} for those it serves" for a in alerts))
    return "no version in service is worse than popularity, as far as outcomes tell"


def _model_problem(workspace: Workspace, name: str) -> str | None:
    """Say why a live model cannot be served, None where it can."""
    try:
        try_bundle(workspace.bundle(name))
    except RecsysMetaError as error:
        return f"{name}: {error}"
    return None


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(doctor)
