"""Prometheus and Grafana: every panel asks for metrics that are exported, and nothing is opened that need not be."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.driven_job import DrivenJob
from helpers.manifests import DEPLOY
from helpers.running_service import RunningService, running, settings_in

from workers.progress.metrics import GAUGES

MONITORING = DEPLOY / "monitoring"
DASHBOARD = json.loads((MONITORING / "grafana" / "dashboards" / "autoslim.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = {panel["title"]: [target["expr"] for target in panel["targets"]] for panel in PANELS}

_METRIC = re.compile(r"\b((?:ray|autoslim)_[a-z0-9_]+|up)\b")


def names(expression: str) -> set[str]:
    return set(_METRIC.findall(re.sub(r'"[^"]*"', "", expression)))


@pytest.fixture(scope="module")
def of_the_service(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What a service with a running job exports."""
    with running(settings_in(tmp_path_factory.mktemp("service"))) as service:
        return _exported(service)


def _exported(service: RunningService) -> set[str]:
    DrivenJob(service, service.put("local").id).search()
    with service.anybody() as client:
        client.get("/v1/jobs")
        text = client.get("/metrics").text
    return set(re.findall(r"^([a-z_]+)(?:\{|\s)", text, flags=re.MULTILINE))


def of_ray() -> set[str]:
    """Ray's own, from its source, and ours with Ray's prefix."""
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    return {f"ray_{name}" for name in (*METRICS_GAUGES, *GAUGES)}


@pytest.mark.parametrize("title", EXPRESSIONS)
def test_every_panel_asks_for_metrics_that_there_are(title: str, of_the_service: set[str]):
    asked = set().union(*(names(expression) for expression in EXPRESSIONS[title]))
    assert asked, "a panel without a metric"
    assert asked <= of_the_service | of_ray() | {"up"}


def test_everything_that_a_search_exports_is_shown():
    asked = set().union(*(names(expression) for expressions in EXPRESSIONS.values() for expression in expressions))
    assert {f"ray_{name}" for name in GAUGES} <= asked


@pytest.mark.parametrize("title", EXPRESSIONS)
def test_every_panel_groups_by_tags_that_the_metrics_have(title: str):
    allowed = {tag for _, tags in GAUGES.values() for tag in tags} | {"instance", "GpuIndex", "le", "route"}
    panel = next(panel for panel in PANELS if panel["title"] == title)
    for target in panel["targets"]:
        grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
        shown = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
        assert {tag.strip() for tags in grouped for tag in tags.split(",")} | set(shown) <= allowed


def test_the_variable_and_the_panels_use_the_provisioned_source():
    (source,) = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    used = {json.dumps(place["datasource"]) for place in [*PANELS, *DASHBOARD["templating"]["list"]]}
    assert {json.loads(text)["uid"] for text in used} == {source["uid"]}
    assert names(DASHBOARD["templating"]["list"][0]["definition"]) <= of_ray()
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [
        (place["x"] + right, place["y"] + down) for place in places for right in range(place["w"]) for down in range(place["h"])
    ]
    assert len(cells) == len(set(cells)), "panels lie over one another"
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)


def test_grafana_finds_the_dashboard_where_compose_puts_it():
    (provider,) = yaml.safe_load((MONITORING / "grafana/provisioning/dashboards/autoslim.yaml").read_text())["providers"]
    volumes = _compose()["services"]["grafana"]["volumes"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in volumes


def _compose() -> dict[str, Any]:
    return yaml.safe_load((MONITORING / "compose.yaml").read_text())


def test_it_is_a_compose_file_whose_containers_are_limited_and_on_loopback():
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        str(MONITORING / "compose.yaml"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    for name, service in _compose()["services"].items():
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}, name
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert not re.search(r":latest$", service["image"]), name
    assert "--web.listen-address=127.0.0.1:9090" in _compose()["services"]["prometheus"]["command"]
    assert _compose()["services"]["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"


def test_tokens_are_read_from_files_that_are_not_in_the_repository():
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    files = [scrape["authorization"]["credentials_file"] for scrape in config["scrape_configs"]]
    assert all(file.startswith("secrets/") for file in files)
    assert "/deploy/monitoring/secrets/" in (DEPLOY.parent / ".gitignore").read_text().split()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian package prometheus) is not installed")
def test_prometheus_reads_its_configuration(tmp_path: Path):
    shutil.copy(MONITORING / "prometheus.yml", tmp_path)
    (tmp_path / "secrets").mkdir()
    for name in ("ray_token", "autoslim_key"):
        (tmp_path / "secrets" / name).write_text("x")
    command = ["promtool", "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
