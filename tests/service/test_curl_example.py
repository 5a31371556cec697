"""The example of the HTTP API in the documents, typed as it stands there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.command_line import blocks
from helpers.running_service import running, settings_in

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "service" / "http.md"


def test_the_example_runs(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (example,) = [block for block in blocks(PAGE.read_text(), "sh") if "$JOB:cancel" in block]
    with running(settings_in(tmp_path)) as service:
        script = example.replace("http://127.0.0.1:8400", service.url)
        done = subprocess.run(["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        (job,) = service.queue.list("local")
    assert done.returncode == 0, done.stdout + done.stderr
    assert job.state == "CANCELLED"
    assert done.stdout.count(job.id) >= 2
    assert "event: state" in done.stdout
