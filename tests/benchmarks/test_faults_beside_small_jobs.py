"""Six faults of `benchmarks/service_faults.py` on real processes in minutes: `.ci/run` plays them, two jobs at a time.

The start of a job's processes takes far longer than its trials, so that a job meets several faults, one after the other. Another driver
takes half of such a job's time again: all rules are judged but the one on wall time, which `make test-faults` judges with longer jobs, one
fault each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from faults.case import Case, Stage
from faults.user import SMALL
from service_faults import FAULTS, SharedService, broken_rules, play

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.faults,
    # `.ci/run`, which plays both at a time, has eight minutes for them: the last is for the start and the end of the processes.
    pytest.mark.timeout(420),
    pytest.mark.skipif("AUTOSLIM_FAULTS_DIR" in os.environ, reason="test_played_faults.py plays them with longer jobs"),
]

_BY_NAME = {case.name: case for case in FAULTS}
_JOB = SMALL | {"trials": 8, "epochs": 3.0, "scheduler": "none"}
"""Its trials last until the last fault. Where they do not, the test fails."""


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


# Each starts two drivers.
@pytest.mark.parametrize(
    ("names", "attempts"),
    [
        (("SQLite locked by another process for 30 s", "driver: SIGKILL"), 2),
        (
            (
                "50 submits of one request at once",
                "supervisor: SIGKILL",
                "process of a trial: SIGKILL",
                # Last: the other job begins when this one has ended.
                "another job whose loss is not a number",
            ),
            1,
        ),
    ],
    ids=["the driver's", "the service's"],
)
def test_faults_beside_a_small_job_cost_no_job_no_trial_and_leave_no_process(
    names: tuple[str, ...], attempts: int, shared: SharedService
) -> None:
    cases = [_BY_NAME[name] for name in names]
    told: list[str] = []

    def strike(stage: Stage) -> str:
        for case in cases:
            assert not stage.user.ended, f"the job has ended before the fault {case.name}, which would show nothing"
            told.append(f"{case.name}: {case.strike(stage)}")
        return "; ".join(told)

    row = play(Case(names[0], strike, spec=_JOB), shared)
    assert broken_rules(row, _BY_NAME[names[0]], None) == [], row
    assert row["attempts"] == attempts, row
    assert len(told) == len(names), row
