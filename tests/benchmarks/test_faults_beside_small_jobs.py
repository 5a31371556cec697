"""Six faults of `benchmarks/service_faults.py` on real processes in minutes: `.ci/run` plays them, two at a time.

Each has a job that is as small as a real search can be and still trains for seconds after its first trial. Such a job is almost only the
start of its processes, so that a fault that costs another driver takes half of it again: all rules are judged but the one on wall time,
which `make test-faults` judges with longer jobs.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

import pytest
from faults.case import Stage
from faults.user import SMALL
from service_faults import FAULTS, SharedService, broken_rules, play

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.faults,
    # Ten times what the longest takes on two quiet cores.
    pytest.mark.timeout(600),
    pytest.mark.skipif("AUTOSLIM_FAULTS_DIR" in os.environ, reason="test_played_faults.py plays them with longer jobs"),
]

_JOB = SMALL | {"trials": 4, "epochs": 3.0, "scheduler": "none"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedService]:
    """Whose jobs start no second process for trials, and make no file of MLflow's each: both take longer than the trials."""
    service = SharedService()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOSLIM_CONCURRENCY", "1")
        patch.setenv("AUTOSLIM_TRACKING_URI", f"sqlite:///{tmp_path_factory.mktemp('tracking') / 'mlflow.db'}")
        try:
            yield service
        finally:
            service.end()
    assert service.left == 0, "processes of the service are left after its end"


@pytest.mark.parametrize(
    ("name", "attempts"),
    [
        # As two processes of pytest take them, both have as much to do.
        ("driver: SIGKILL", 2),
        ("50 submits of one request at once", 1),
        ("SQLite locked by another process for 30 s", 1),
        ("supervisor: SIGKILL", 1),
        ("another job whose loss is not a number", 1),
        ("process of a trial: SIGKILL", 1),
    ],
)
def test_a_fault_beside_a_small_job_costs_no_job_no_trial_and_leaves_no_process(
    name: str, attempts: int, shared: SharedService
) -> None:
    (case,) = (case for case in FAULTS if case.name == name)

    def strike(stage: Stage) -> str:
        assert not stage.user.ended, "the job has ended before its fault, which would show nothing"
        return case.strike(stage)

    row = play(dataclasses.replace(case, strike=strike, spec=_JOB), shared)
    assert broken_rules(row, case, None) == [], row
    assert row["attempts"] == attempts, row
