"""A real Prometheus, with the configuration of deploy/monitoring, on a real Ray and a real service."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import ray
import yaml
from helpers.driven_job import DrivenJob
from helpers.running_service import running, settings_in
from helpers.sample_search import DENSE, make_job, make_report, make_result

from autoslim.core.result import TrialState
from workers.progress.callbacks import SearchInfo
from workers.progress.metrics import SearchMetrics, ray_gauges
from workers.search.cluster import Cluster

MONITORING = Path(__file__).parents[3] / "deploy" / "monitoring"

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus (Debian package) is not installed"),
]


def expressions() -> list[str]:
    dashboard = json.loads((MONITORING / "grafana" / "dashboards" / "autoslim.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    return [expression.replace("$job", ".*") for expression in found]


@contextlib.contextmanager
def prometheus(folder: Path) -> Iterator[httpx.Client]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["prometheus", *arguments, f"--web.listen-address=127.0.0.1:{port}"], stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=30, trust_env=False) as client:
            yield client
    finally:
        process.terminate()
        process.wait(30)


def test_every_panel_that_needs_no_gpu_has_a_value(cluster: Cluster, tmp_path: Path):
    metrics = SearchMetrics(ray_gauges())
    budgets = {"50%": 2_304_169_152}
    metrics.on_search_start(SearchInfo(job=make_job(trials=6), budgets=budgets, base=DENSE, results=[make_result(0)]))
    metrics.on_trial_start(make_result(3, TrialState.RUNNING), "50%")
    metrics.on_epoch_end(make_result(3, TrialState.RUNNING), make_report(2, images_per_second=812.0, loader_wait=0.07))
    with running(settings_in(tmp_path)) as service:
        DrivenJob(service, service.put("vision").id).search()
        _configure(tmp_path, service.url, service.key("read", "admin", tenant="operator"))
        with prometheus(tmp_path) as client:
            empty = _empty(client, seconds=90)
    assert [text for text in empty if "gpu" not in text] == []


def _configure(folder: Path, url: str, key: str) -> None:
    """The committed file, but for where things are."""
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    by_name = {scrape["job_name"]: scrape for scrape in config["scrape_configs"]}
    (node,) = ray.nodes()
    targets = [{"targets": [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"]}]
    (folder / "nodes.json").write_text(json.dumps(targets))
    by_name["ray"]["file_sd_configs"][0]["files"] = [str(folder / "nodes.json")]
    by_name["autoslim"]["static_configs"] = [{"targets": [url.removeprefix("http://")]}]
    config["global"] |= {"scrape_interval": "2s", "scrape_timeout": "2s"}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / "secrets").mkdir()
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    (folder / "secrets" / "ray_token").write_text(token.read_text() if token.exists() else "none")
    (folder / "secrets" / "autoslim_key").write_text(key)


def _empty(client: httpx.Client, *, seconds: float) -> list[str]:
    """The panels' questions that have no answer, when they had time to get one."""
    until = time.monotonic() + seconds
    while True:
        empty = [text for text in expressions() if not _ask(client, text)]
        if not [text for text in empty if "gpu" not in text] or time.monotonic() > until:
            return empty
        time.sleep(3)


def _ask(client: httpx.Client, expression: str) -> list[object]:
    try:
        answer = client.get("/query", params={"query": expression})
    except httpx.TransportError:
        # It is still starting.
        return []
    if answer.status_code == 503:
        return []
    assert answer.status_code == 200, (expression, answer.text)
    return [row for row in answer.json()["data"]["result"] if not re.fullmatch("NaN", row["value"][1])]
