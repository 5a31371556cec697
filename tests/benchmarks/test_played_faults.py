"""Every fault of `benchmarks/service_faults.py` on real processes: its job ends as the rules say. What a case has shown is kept.

A case takes one to ten minutes, on slow cores up to half an hour. Without AUTOSLIM_FAULTS_DIR, which `make test-faults` sets, none is
played.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.case import Case, MissingError
from faults.leftovers import MARK, claimed
from faults.user import PATIENCE
from service_faults import FAULTS, SharedService, broken_rules, in_order, kept_or_played, known_rows, undisturbed

_FOLDER = "AUTOSLIM_FAULTS_DIR"
_AROUND_SECONDS = 600.0
"""For what is there beside the jobs: the start and the end of the service, and of its planner."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.faults,
    pytest.mark.skipif(_FOLDER not in os.environ, reason=f"{_FOLDER} names no folder for the results; `make test-faults` does"),
]


@pytest.fixture(scope="module")
def rows() -> Iterator[Path]:
    """The file of the rows in a folder that is this process's own. The services have their settings from the user, as the script's do,
    whose rows these are: not those of the tests."""
    folder = Path(os.environ[_FOLDER])
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AUTOSLIM_CACHE", "AUTOSLIM_NICENESS"):
            patch.delenv(name, raising=False)
        # Set, so that it is taken away again.
        patch.setenv(MARK, "")
        with claimed(folder):
            yield folder / "results.jsonl"


@pytest.fixture(scope="module")
def shared(rows: Path) -> Iterator[SharedService]:
    service = SharedService()
    try:
        yield service
    finally:
        service.end()
    assert service.left == 0, "processes of the service of several cases are left after its end"


@pytest.mark.parametrize(
    "case",
    [
        # Longer than any single wait of the case, so that it is the wait that ends, and says what for.
        pytest.param(case, id=case.name, marks=pytest.mark.timeout(2 * PATIENCE[case.job] + _AROUND_SECONDS))
        for case in in_order(FAULTS)
    ],
)
def test_a_fault_costs_no_job_no_trial_and_little_time(case: Case, rows: Path, shared: SharedService) -> None:
    try:
        row = kept_or_played(case, rows, shared)
    except MissingError as error:
        pytest.skip(str(error))
    alone = undisturbed(known_rows(rows).values(), case.job)
    assert broken_rules(row, case, alone) == [], row
