"""An MLflow server that takes five seconds an answer, beside a search."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.local_server import serving
from helpers.marks import CI_ONLY
from helpers.sample_search import make_job
from helpers.simulated_trials import make_coordinator, run_all

from autoslim.core.budget import Budget
from autoslim.core.recipe import TrainingSettings
from autoslim.core.urls import default_url
from autoslim.report.tracking import BackgroundSync, MlflowSync
from autoslim.store import Store

pytestmark = CI_ONLY

ANSWER = 5.0


class Slow(http.server.BaseHTTPRequestHandler):
    asked = 0
    gone = threading.Event()

    def answer(self) -> None:
        Slow.asked += 1
        self.gone.wait(ANSWER)
        self.send_error(503)

    do_GET = do_POST = answer


@pytest.fixture
def slow_server() -> Iterator[str]:
    with serving(Slow) as port:
        yield f"http://127.0.0.1:{port}"
        Slow.gone.set()


def seconds_of_a_search(root: Path, tracking_uri: str | None) -> float:
    root.mkdir()
    budgets = (Budget.parse("50%"), Budget.parse("70%"))
    job = make_job(str(root), id=root.name, budgets=budgets, training=TrainingSettings(epochs=4.0), trials=12)
    with Store(default_url(root)) as store:
        coordinator = make_coordinator(job, store, root)
        thread = (
            None
            if tracking_uri is None
            else BackgroundSync(MlflowSync(store, job.id, tracking_uri=tracking_uri), every=0.01).start()
        )
        while thread is not None and not Slow.asked:
            time.sleep(0.01)
        began = time.monotonic()
        run_all(coordinator)
        seconds = time.monotonic() - began
        if thread is not None:
            assert not thread.close(0.1)
        assert len(store.trials(job.id)) >= 12
    return seconds


def test_trials_do_not_wait_for_a_slow_server(slow_server: str, tmp_path: Path) -> None:
    alone = seconds_of_a_search(tmp_path / "alone", None)
    beside = seconds_of_a_search(tmp_path / "beside", slow_server)
    assert Slow.asked
    # Not for one answer, while twelve trials begin, report and end.
    assert beside < alone + ANSWER
