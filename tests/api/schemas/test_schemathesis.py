"""Random calls of every operation in the OpenAPI document, right ones, wrong ones and walks along its links: no 5xx,
and every status, content type, header and body is as documented. `schemathesis.toml` says what is asked.

Calls are counted, not timed, and drawn from one seed: a slow machine makes the same ones. `RECSYS_META_SCHEMATHESIS_S`
is how long each kind of database is tried with others, in seconds; longer finds more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from recsys_meta.models.bundle import Bundle
from recsys_meta.store.database.engine import connect, session
from recsys_meta.store.tracking import evaluations, runs
from recsys_meta.store.tracking.runs import MetricPoint
from tests.api import bundles
from tests.api.schemas.test_openapi import ROUTES
from tests.api.servers import Served, serving, settings
from tests.fixtures import stub_predictors as choosing
from tests.fixtures.services import OwnRedis
from tests.store.samples import a_run, an_evaluation

DEEP = os.environ.get("RECSYS_META_SCHEMATHESIS_S")
HOW_MANY = ["--max-examples", "10", "--seed", "1"] if DEEP is None else ["--max-time", DEEP]
CONFIG = Path(__file__).parent / "schemathesis.toml"
KEY = "sesame"
SPARE = ("spare", "spare2", "spare3")
THREE = ("i3", "i14", "i15")

pytest.importorskip("schemathesis")


@pytest.fixture
def furnished(
    home: Path, published: str, bundle: Bundle, other: Bundle, own_redis: OwnRedis, predictors: None
) -> Iterator[Served]:
    """A server that has something to show of everything, for who has the key."""
    bundles.publish(published, home / "models", "ads", choosing.clicks())
    bundles.publish(published, home / "models", "cities", choosing.visits())
    for name in SPARE:  # live and one to spare
        for one, is_live in ((scaled(bundle), True), (scaled(other), False)):
            bundles.publish(published, home / "models", name, one, is_live)
    for one in (other, bundle) * 3:  # so that much can be rolled back
        bundles.publish(published, home / "models", "users", one)
    engine = connect(published)
    with session(engine) as s:
        a_run(s, "run 1")
        runs.log_metrics(s, [MetricPoint("run 1", "loss", 1, 0.5)])
        evaluations.save_evaluations(s, [an_evaluation(shots=n) for n in range(3)])
    engine.dispose()
    with serving(settings(home, published, own_redis.url, f"{KEY}:admin")) as server:
        server.client.headers["X-API-Key"] = KEY
        events = [{"kind": "user", "entity": "anna", "item": item} for item in THREE]
        assert server.client.post("/v1/events", json={"events": events}).json()["accepted"] == 3
        items = [{"id": f"i{n}"} for n in range(1, 4)]
        assert server.client.post("/v1/items", json={"kind": "user", "items": items}).json()["stored"] == 3
        yield server


@pytest.mark.slow
@pytest.mark.timeout(0)  # the process has a limit of its own
def test_the_document_is_kept(furnished: Served, tmp_path: Path) -> None:
    config = tmp_path / CONFIG.name
    # Of those of users one is always live, and is not deleted.
    text = CONFIG.read_text().replace('["VERSION"]', json.dumps(versions_of(furnished, "users")))
    config.write_text(text.replace('["SPARE_VERSION"]', json.dumps(versions_of(furnished, SPARE[0]))))
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"]
    command += [f"{furnished.url}/openapi.json", "--header", f"X-API-Key: {KEY}", *HOW_MANY]
    command += ["--no-color", "--warnings", "off", "--report", "json", "--report-json-path", "report.json"]
    ran = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=int(DEEP or 0) + 500
    )
    output = "\n".join(line[:500] for line in ran.stdout.splitlines())  # bodies may be long
    assert ran.returncode == 0, output + ran.stderr[-2000:]
    every = json.loads((tmp_path / "report.json").read_text())["operations"]
    assert every["tested"] == every["total"] == len(ROUTES)
    # Calls that all are refused would show nothing of what lies behind.
    assert set(ROUTES) <= well_answered(furnished), output


def scaled(bundle: Bundle) -> Bundle:
    """Another version: what ends is none that another model has too."""
    params = {k: 0.5 * v if v.is_floating_point() else v for k, v in bundle.params.items()}
    return Bundle(**{**vars(bundle), "params": params})


def versions_of(server: Served, model: str) -> list[str]:
    return [v["version"] for v in server.client.get(f"/v1/models/{model}").json()["registered"]]


def well_answered(server: Served) -> set[tuple[str, str]]:
    """Calls that were answered with 200 at least once, by the server's own count."""
    return {
        (labels["method"].lower(), labels["route"].replace(":path", ""))
        for family in text_string_to_metric_families(server.client.get("/metrics").text)
        for _, labels, value, *_ in family.samples
        if labels.get("status") == "200" and value
    }
