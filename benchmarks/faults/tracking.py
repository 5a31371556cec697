"""An MLflow server that is down when a job begins and back before it ends."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

from faults.case import Case, Stage
from faults.service import Service, free_port, until
from faults.user import SPEC

_QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
_SYNC_SECONDS = 120.0


class _Tracked(Service):
    uri: str
    server: subprocess.Popen[bytes] | None = None

    def start_server(self, folder: Path) -> None:
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host=127.0.0.1",
            f"--port={self.uri.rpartition(':')[2]}",
            "--workers=1",
        ]
        command += [f"--backend-store-uri=sqlite:///{folder / 'mlflow.db'}", f"--artifacts-destination={folder / 'artifacts'}"]
        with (folder / "mlflow.log").open("ab") as log:
            self.server = subprocess.Popen(command, env={**os.environ, **_QUIET}, stdout=log, stderr=log, start_new_session=True)
        until(self._answers, "MLflow's server")

    def _answers(self) -> bool | None:
        try:
            return httpx.get(f"{self.uri}/health", timeout=5, trust_env=False).is_success or None
        except httpx.HTTPError:
            return None


@contextlib.contextmanager
def _without_its_server(folder: Path) -> Iterator[Service]:
    """Nothing listens at the tracking URI yet."""
    uri = f"http://127.0.0.1:{free_port()}"
    service = _Tracked(folder, options=("--tracking-uri", uri))
    service.uri = uri
    try:
        with service.running():
            yield service
    finally:
        if service.server is not None:
            service.server.terminate()
            service.server.wait(60)


def _server_back(stage: Stage) -> str:
    """After the job's first trial; all of its runs are there in the end."""
    assert isinstance(stage.service, _Tracked)
    uri = stage.service.uri
    stage.service.start_server(stage.folder)
    stage.user.until_ended()
    trials = stage.user.http.get(f"/v1/jobs/{stage.user.job['id']}/trials").raise_for_status().json()["trials"]
    # One of the search itself, and one of each trial.
    until(lambda: _runs(uri) == len(trials) + 1 or None, "all runs in MLflow", seconds=_SYNC_SECONDS)
    return f"MLflow: {len(trials) + 1} runs of a search of {SPEC['trials']} trials"


def _runs(uri: str) -> int:
    with httpx.Client(base_url=f"{uri}/api/2.0/mlflow", timeout=30, trust_env=False) as client:
        found = client.post("/experiments/search", json={"max_results": 100}).raise_for_status().json()
        ids = [experiment["experiment_id"] for experiment in found.get("experiments", [])]
        answer = client.post("/runs/search", json={"experiment_ids": ids, "max_results": 1000}).raise_for_status().json()
        return len(answer.get("runs", []))


CASES = [Case("MLflow down at the start, back after the first trial", _server_back, host=_without_its_server)]
