"""Figures are right for one process, for several, and after one of them was killed; logs are lines of JSON."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.telemetry.metrics import ServerMetrics
from tests.api.servers import serving, settings, wait
from tests.fixtures.services import free_port


def figures(text):
    """Samples by name and labels."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(found, name, **labels):
    return sum(v for (n, *pairs), v in found.items() if n == name and labels.items() <= dict(pairs).items())


def test_what_was_asked_is_counted_once(server, new_id):
    for item in ("i1", "i1", "i2"):
        assert server.recommend(item).status_code == 200
    sent = [{"entity": new_id, "item": "i1", "event_id": f"{new_id} 1"}]
    for events in (sent, sent, [{"entity": new_id}]):
        server.client.post("/v1/events", json={"events": events})
    server.client.get("/nowhere/1")
    server.client.get("/nowhere/2")
    found = figures(server.client.get("/metrics").text)
    requests = "recsys_meta_requests_total"
    assert total(found, requests, route="/v1/recommendations", method="POST", status="200") == 3
    assert total(found, requests, route="unmatched", method="any", status="404") == 2
    assert total(found, "recsys_meta_request_seconds_count", route="/v1/recommendations") == 3
    assert total(found, "recsys_meta_answers_total", model="users") == 3
    assert total(found, "recsys_meta_answers_total", cache="process") == 1
    assert {o: total(found, "recsys_meta_events_total", outcome=o) for o in ("accepted", "duplicates", "refused")} == {
        "accepted": 1,
        "duplicates": 1,
        "refused": 1,
    }
    gauges = {n: total(found, f"recsys_meta_{n}") for n in ("models_in_service", "database_up", "redis_up")}
    assert set(gauges.values()) == {1}
    assert total(found, "recsys_meta_resident_bytes") > 10_000_000
    assert total(found, "recsys_meta_keys_age_seconds") < 60


def test_a_database_that_is_away_is_seen_in_the_figures(home, light):
    with serving(settings(home, light, "redis://127.0.0.1:1/0")) as server:
        server.recommend("i1")
        found = figures(server.client.get("/metrics").text)
    assert total(found, "recsys_meta_redis_up") == 0
    assert total(found, "recsys_meta_degraded_answers_total", missing="redis") == 1


def test_labels_do_not_grow_with_what_clients_make_up(server):
    before = len(figures(server.client.get("/metrics").text))
    for n in range(20):
        server.client.request(f"ODD{n}", f"/made/up/{n}")
        server.client.get(f"/v1/entities/kind{n}/id{n}")
    after = len(figures(server.client.get("/metrics").text))
    assert after - before < 50


@pytest.fixture
def workers(home, light, tmp_path):
    """Two worker processes as `recsys-meta serve` starts them."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RECSYS_META_", "PROMETHEUS_"))}
    env = {**kept, "RECSYS_META_HOME": str(home), "RECSYS_META_DATABASE_URL": light, "OMP_NUM_THREADS": "1"}
    port = free_port()
    words = [sys.executable, "-m", "pipelines", "serve", "--port", str(port), "--workers", "2"]
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(words, env=env, stdout=log, stderr=subprocess.STDOUT)
    made = Workers(process, port, tmp_path / "log", home)
    try:
        wait(lambda: len(made.seen()) == 2 and made.listening(), 120)
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            for pid in made.children():
                os.kill(pid, signal.SIGKILL)
            process.kill()
            log.close()


class Workers:
    def __init__(self, process, port, log, home):
        self.process, self.url, self.log, self.home = process, f"http://127.0.0.1:{port}", log, home

    def children(self):
        try:
            text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        except FileNotFoundError:
            return []
        return [int(p) for p in text.split() if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]

    def ask(self, method, path, **more):
        # A connection of its own each time: any worker may take it.
        return httpx.request(method, self.url + path, timeout=60, **more)

    def listening(self):
        # A worker's gauges are there before it listens.
        try:
            return self.ask("GET", "/livez").status_code == 200
        except httpx.TransportError:
            return False

    def figures(self):
        return figures(self.ask("GET", "/metrics").text)

    def seen(self):
        """Process ids of workers whose gauges are there, and who therefore serve."""
        assert self.process.poll() is None, self.log.read_text()
        (folder,) = [*self.home.glob("metrics-*"), None][:1]
        return set() if folder is None else {p.stem.rpartition("_")[2] for p in folder.glob("gauge_livesum_*.db")}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds worker processes through /proc")
def test_two_workers_answer_for_each_other_also_after_one_was_killed(workers):
    def send(times):
        for _ in range(times):
            assert workers.ask("POST", "/v1/recommendations", json={"events": [{"item": "i1"}]}).status_code == 200

    def answered():
        return [total(workers.figures(), "recsys_meta_answers_total", model="users") for _ in range(6)]

    def requests():
        return total(workers.figures(), "recsys_meta_requests_total", route="/v1/recommendations")

    send(40)
    wait(lambda: requests() >= 40)  # a request is counted when its answer has left
    assert set(answered()) == {40}  # whichever worker is asked
    assert requests() == 40
    found = workers.figures()
    assert total(found, "recsys_meta_models_in_service") == 1
    wait(lambda: total(workers.figures(), "recsys_meta_database_up") == 1)
    assert total(found, "recsys_meta_resident_bytes") > 100_000_000
    first = workers.children()
    assert len(first) == 2
    os.kill(first[0], signal.SIGKILL)

    def settled():
        workers.figures()  # being asked is when the dead one's gauges are dropped
        return str(first[0]) not in workers.seen() and len(workers.seen()) == 2

    wait(settled, 60)
    send(10)
    assert set(answered()) == {50}  # what the dead one counted stays, and nothing counts twice
    lines = [json.loads(line) for line in workers.log.read_text().splitlines() if line.startswith("{")]
    ids = Counter(line["request_id"] for line in lines if line["event"] == "request")
    assert set(ids.values()) == {1}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds worker processes through /proc")
def test_a_server_that_stops_leaves_no_figures_behind(workers):
    workers.process.send_signal(signal.SIGTERM)
    workers.process.wait(60)
    assert list(workers.home.glob("metrics-*")) == []


def test_counting_by_hand_and_by_gate_is_the_same():
    metrics = ServerMetrics()
    for status in (200, 200, 503):
        metrics.count_request("/x", "GET", status, 0.003)
    found = figures(metrics.render().decode())
    assert total(found, "recsys_meta_requests_total", status="200") == 2
    assert total(found, "recsys_meta_requests_total") == 3
    assert total(found, "recsys_meta_request_seconds_bucket", le="0.005") == 3
    assert total(found, "recsys_meta_request_seconds_bucket", le="0.002") == 0


def test_each_line_of_the_log_is_json_with_a_request_id(home, light, capsys):
    with serving(settings(home, light)) as server:
        given = server.client.get("/v1/models", headers={"x-request-id": "mine-1"})
        made = server.client.get("/nowhere")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line]
    by_id = {line.get("request_id"): line for line in lines}
    assert (by_id["mine-1"]["route"], by_id["mine-1"]["status"]) == ("/v1/models", 200)
    assert given.headers["x-request-id"] == "mine-1"
    assert by_id[made.headers["x-request-id"]]["status"] == 404
    assert all({"event", "level", "timestamp"} <= set(line) for line in lines)
