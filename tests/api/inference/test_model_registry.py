"""What can be known of the files of a deployment without starting it."""

import json
import re
import threading
from pathlib import Path

import httpx
import pytest
import yaml

from api.inference import model_registry as registry
from recsys_meta.store.settings import Settings
from tests.api.servers import Served, settings

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "docs" / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "recsys-meta.json"
METRIC = re.compile(r"\brecsys_meta_[a-z_]+\b")


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def read_yaml(path):
    return yaml.safe_load((DEPLOY / path).read_text())


def families(text):
    """Names of samples that the text of `/metrics` has or may have."""
    found = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M):
        found |= {f"{name}{end}" for end in ("_bucket", "_count", "_sum")} if kind == "histogram" else {name}
    return found


def test_dashboard_and_alerts_ask_for_figures_that_exist(server):
    exist = families(server.client.get("/metrics").text)
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = {name for panel in panels for target in panel["targets"] for name in METRIC.findall(target["expr"])}
    alerts = [rule["expr"] for group in read_yaml("alerts.yml")["groups"] for rule in group["rules"]]
    asked |= {name for expr in alerts for name in METRIC.findall(expr)}
    assert len(asked) > 15
    assert asked <= exist, asked - exist
    # And the other way round: what is counted is shown.
    shown = {name.removesuffix("_bucket") for name in asked}
    ignored = ("_created", "_count", "_sum", "_bucket")
    assert {name for name in exist if not name.endswith(ignored)} <= shown


def test_the_dashboard_is_whole():
    board = json.loads(DASHBOARD.read_text())
    panels = board["panels"]
    assert len({p["id"] for p in panels}) == len({p["title"] for p in panels}) == len(panels)
    source = read_yaml("grafana/provisioning/datasources/prometheus.yaml")["datasources"][0]
    assert {p["datasource"]["uid"] for p in panels} == {source["uid"]}
    cells = [
        (x, y)
        for p in panels
        for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
        for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23


def test_services_find_each_other(compose):
    services = compose["services"]
    assert {"api", "postgres", "redis", "prometheus", "grafana"} <= set(services)
    environment = services["api"]["environment"]
    hosts = {
        re.search(r"@([a-z]+):", environment[name])[1] for name in ("RECSYS_META_DATABASE_URL", "RECSYS_META_REDIS_URL")
    }
    assert hosts == {"postgres", "redis"}
    (scrape,) = read_yaml("prometheus.yml")["scrape_configs"]
    assert scrape["static_configs"][0]["targets"] == ["api:8000"]
    (file,) = scrape["http_headers"]["X-API-Key"]["files"]
    assert file.removeprefix("/run/secrets/") in services["prometheus"]["secrets"]
    assert file.removeprefix("/run/secrets/") in compose["secrets"]
    for name, service in services.items():
        for other in service.get("depends_on", []):
            assert other in services, name
            condition = service["depends_on"][other]["condition"] if isinstance(service["depends_on"], dict) else ""
            assert condition != "service_healthy" or "healthcheck" in services[other], (name, other)


def test_every_file_and_volume_that_is_mounted_exists(compose):
    for name, service in compose["services"].items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in compose["volumes"], (name, mount)
    provider = read_yaml("grafana/provisioning/dashboards/recsys-meta.yaml")["providers"][0]["options"]["path"]
    assert any(m.split(":")[1] == provider for m in compose["services"]["grafana"]["volumes"])


def test_no_secret_is_written_down_and_nothing_listens_for_everybody(compose):
    text = (ROOT / "compose.yaml").read_text()
    for line in text.splitlines():
        if re.search(r"PASSWORD|METRICS_KEY", line):
            assert re.search(r"\$\{\w+:\?\}|environment: METRICS_KEY", line), line
    for name, service in compose["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert "privileged" not in service
    assert compose["services"]["api"]["read_only"] is True


def test_settings_of_the_environment_are_ours(compose):
    known = {f"RECSYS_META_{name.upper()}" for name in Settings.model_fields} | {"OTEL_EXPORTER_OTLP_ENDPOINT"}
    assert set(compose["services"]["api"]["environment"]) <= known


def test_an_empty_limit_is_none(tmp_path):
    """As compose passes it on where `.env` says nothing."""
    made = settings(tmp_path, f"sqlite:///{tmp_path}/x.db").model_copy(update={"rate_limit": ""})
    server = Served(made)
    assert "Throttle" not in str(server.app.user_middleware)
    server.client.close()


def test_the_image_is_not_root_and_looks_after_itself():
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    last = lines[[n for n, line in enumerate(lines) if line.startswith("FROM")][-1] :]
    (user,) = [line.split()[1] for line in last if line.startswith("USER")]
    assert user.isdigit() and int(user) > 0
    assert any(line.startswith("HEALTHCHECK") and "/livez" in line for line in last)
    assert any(line.startswith("ENTRYPOINT") for line in last)
    assert "download.pytorch.org/whl/cpu" in " ".join(lines)


def test_the_image_is_made_of_files_that_exist():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [p for line in lines if line.startswith("COPY") and "--from" not in line for p in line.split()[1:-1]]
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied
    for path in copied:
        assert (ROOT / path).exists(), path
        assert path in kept, path


def test_a_server_listens_once_its_models_are_loaded(home, light, monkeypatch):
    """So a container that answers its health check is warm: no first newcomer pays for loading."""
    loading, go = threading.Event(), threading.Event()
    real = registry.open_version

    def slow(*given):
        loading.set()
        assert go.wait(30)
        return real(*given)

    monkeypatch.setattr(registry, "open_version", slow)
    server = Served(settings(home, light))
    starting = threading.Thread(target=server.start, daemon=True)
    starting.start()
    assert loading.wait(30)
    with pytest.raises(httpx.ConnectError):
        server.client.get("/livez")
    go.set()
    starting.join(30)
    try:
        assert server.recommend("i1").status_code == 200
        assert server.client.get("/readyz").json()["checks"]["models"]["ok"] is True
    finally:
        server.stop()
