"""A home of its own for the golden artefacts, and what may be asked there: by promised names only.

Imports of the project: `api.app:create_app` and `pipelines.cli:app`, as in `tests.contract.contract`. All else goes by
the command line, HTTP, SQL, and the files of a home.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from recsys_meta import __version__
from tests.contract.contract import clean_environment

GOLDEN = Path(__file__).parent
RUN = "golden"


def command(home: Path, *words: object) -> Any:
    """What a command says with --json; it must succeed."""
    from pipelines.cli import app

    with clean_environment(RECSYS_META_HOME=str(home)):
        done = CliRunner().invoke(app, [*map(str, words), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def upgraded(home: Path) -> Path:
    """The database of a home, made by the migrations."""
    from pipelines.cli import app

    with clean_environment(RECSYS_META_HOME=str(home)):
        done = CliRunner().invoke(app, ["db", "upgrade"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (file,) = home.glob("*.db")
    return file


def add_run(home: Path, plan: Mapping[str, Any]) -> None:
    """A row in the table `runs`, and run.json."""
    folder = home / "runs" / plan["id"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(plan))
    row = {
        "id": plan["id"],
        "recipe": plan["recipe"]["name"],
        "dataset": "golden",
        "learner": plan["recipe"]["learner"],
        "config": json.dumps(plan["recipe"]),
        "seed": plan["seed"],
        "status": "stopped",
        "started": "2026-01-01 00:00:00.000000",
    }
    with closing(sqlite3.connect(upgraded(home))) as database, database:
        database.execute(f"INSERT INTO runs ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", [*row.values()])


def figures(home: Path, run: str) -> dict[str, float]:
    """The last value of every metric of a run that does not depend on the time."""
    with closing(sqlite3.connect(upgraded(home))) as database:
        rows = database.execute("SELECT key, value FROM latest_metrics WHERE run = ?", [run]).fetchall()
    return {key: value for key, value in rows if key != "tasks_per_second"}


def released(bundle: Path, target: Path) -> Path:
    """A copy of a bundle as this release would have written it: its code version is the present one, and sealed again.

    The copy lies in a folder of its version. What is sealed, and how, is the format of bundles of docs/architecture.md.
    """
    about = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    del about["seal"]
    about["code_version"] = __version__
    seal = sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    text = json.dumps({**about, "seal": seal}, indent=1, sort_keys=True)
    copy = target / sha256(text.encode()).hexdigest()[:16]
    shutil.copytree(bundle, copy)
    (copy / "bundle.json").write_text(text, encoding="utf-8")
    return copy


def published(home: Path, bundle: Path, plan: Mapping[str, Any], name: str) -> Path:
    """Put a bundle into the home as that of a run, and publish it: it is read, and written again under models/."""
    add_run(home, {**plan, "id": name, "dataset": "none"})
    released(bundle, home / "runs" / name / "bundle")
    done = command(home, "models", "publish", name, "--name", name, "--force")
    return home / "models" / name / done["version"]


def served(home: Path, requests: Mapping[str, Any]) -> dict[str, Any]:
    """What the API answers to requests, each a path and a body, by their names."""
    from starlette.testclient import TestClient

    with clean_environment(RECSYS_META_HOME=str(home)):
        from api.app import create_app

        with TestClient(create_app(), client=("127.0.0.1", 1)) as client:
            found = {}
            for name, (path, body) in sorted(requests.items()):  # the order decides on what a cache answers
                answer = client.post(path, json=body)
                assert answer.status_code == 200, (name, answer.text)
                found[name] = plain(answer.json())
    return found


CHANGES = ("request_id", "ms", "next", "version", "milliseconds", "adapt_ms")
"""Fields that differ from call to call, or with the release."""


def plain(node: Any) -> Any:
    """An answer without what changes."""
    if isinstance(node, dict):
        return {k: plain(v) for k, v in node.items() if k not in CHANGES}
    return [plain(v) for v in node] if isinstance(node, list) else node


def differences(kept: Any, found: Any, tolerance: float, where: str = "") -> Iterator[str]:
    """Where two answers differ: words and whole numbers at all, other numbers by more than the tolerance."""
    if isinstance(kept, float) and isinstance(found, float):
        if not abs(kept - found) <= tolerance * max(1.0, abs(kept)):
            yield f"{where}: {kept} was {found} now"
    elif isinstance(kept, dict) and isinstance(found, dict) and kept.keys() == found.keys():
        for key in kept:
            yield from differences(kept[key], found[key], tolerance, f"{where}/{key}")
    elif isinstance(kept, list) and isinstance(found, list) and len(kept) == len(found):
        for i, (a, b) in enumerate(zip(kept, found, strict=True)):
            yield from differences(a, b, tolerance, f"{where}/{i}")
    elif kept != found or type(kept) is not type(found):
        yield f"{where}: {kept} was {found} now"


def read(name: str) -> Any:
    """A committed JSON file."""
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


def write(name: str, value: Any) -> None:
    """Write a JSON file to be committed."""
    (GOLDEN / name).write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
