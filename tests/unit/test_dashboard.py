"""Every figure of the dashboard is one that is exposed, and what compose starts to show them is asked for them."""

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

INFRA = Path(__file__).resolve().parents[2] / "infra"
DASHBOARD = json.loads((INFRA / "grafana/softalign.json").read_text())
PREFECT = {"prefect_worker_channel_heartbeat_failures_total", "prefect_worker_channel_heartbeat_failures_created"}
"""What Prefect 3.8.8's server exposes of its own (seen), beside its process."""
PROCESS = {"process_resident_memory_bytes", "process_cpu_seconds_total"}
PROMETHEUS = {"up"}
FUNCTIONS = {"sum", "by", "increase", "rate", "max", "time", "histogram_quantile"}
LABELS = {"stage", "outcome", "recipe", "unit", "status", "le"}


def expressions():
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def metrics_of(expression):
    plain = re.sub(r"\{[^}]*\}|\[[^]]*\]", "", expression)
    return set(re.findall(r"[a-z_]{2,}", plain)) - FUNCTIONS - LABELS


def used(prefix=""):
    return {name for expression in expressions() for name in metrics_of(expression) if name.startswith(prefix)}


@pytest.fixture
def of_mlflow(monkeypatch, tmp_path):
    """Return the names that MLflow's exporter makes for requests, which it counts in an application of ours."""
    flask = pytest.importorskip("flask")
    exporter = pytest.importorskip("prometheus_flask_exporter")
    app, registry = flask.Flask("test"), CollectorRegistry()
    exporter.PrometheusMetrics(app, defaults_prefix="mlflow", registry=registry)
    app.route("/")(lambda: "ok")
    app.test_client().get("/")
    return names_in(generate_latest(registry).decode())


def names_in(text):
    return {re.split(r"[{ ]", line)[0] for line in text.splitlines() if line and line[0] != "#"}


def test_what_is_shown_of_mlflow_is_what_its_exporter_counts(of_mlflow):
    assert used("mlflow_")
    assert used("mlflow_") <= of_mlflow


def test_what_is_shown_of_stages_is_what_stages_write():
    from softalign.stages import metrics_file as written

    names = {f"{name}_total" for name in written.COUNTERS} | set(written.GAUGES)
    assert used("softalign_") == names


def test_nothing_else_is_shown_but_what_the_servers_expose():
    assert used() - used("softalign_") - used("mlflow_") <= PREFECT | PROCESS | PROMETHEUS
    assert used("prefect_")


def test_panels_do_not_overlap_and_say_what_they_show():
    places = [tuple(panel["gridPos"][side] for side in "xywh") for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len({panel["title"] for panel in DASHBOARD["panels"]}) == len(places)
    assert all(x + w <= 24 for x, _, w, _ in places)
    assert not [1 for a in places for b in places if a < b and overlap(a, b)]
    source = {"type": "prometheus", "uid": "prometheus"}
    assert all(panel["datasource"] == source and panel["targets"] for panel in DASHBOARD["panels"])


def overlap(a, b):
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


def test_prometheus_asks_services_of_compose_with_passwords_from_files():
    compose = yaml.safe_load((INFRA / "compose.yaml").read_text())
    services, jobs = compose["services"], yaml.safe_load((INFRA / "prometheus.yaml").read_text())["scrape_configs"]
    secrets = {f"/run/secrets/{name}" for name in services["prometheus"]["secrets"]}
    for job in jobs:
        (target,) = job["static_configs"][0]["targets"]
        assert target.split(":")[0] in services
        if "basic_auth" in job:
            assert set(job["basic_auth"]) == {"username", "password_file"}
            assert job["basic_auth"]["password_file"] in secrets
    assert {job["job_name"] for job in jobs if "basic_auth" in job} == {"mlflow", "prefect"}
    monitoring = {name for name, service in services.items() if service.get("profiles") == ["monitoring"]}
    assert monitoring == {"node-exporter", "prometheus", "grafana"}
    folder = services["node-exporter"]["volumes"][0].split(":")[0]
    for worker in ("worker-cpu", "worker-gpu"):
        place = next(volume.split(":")[1] for volume in services[worker]["volumes"] if volume.startswith(f"{folder}:"))
        assert services[worker]["environment"]["SOFTALIGN_METRICS_FILE"] == f"{place}/softalign.prom"
    datasource = yaml.safe_load(compose["configs"]["grafana-datasource"]["content"])["datasources"][0]
    assert (datasource["uid"], datasource["url"]) == ("prometheus", "http://prometheus:9090")
