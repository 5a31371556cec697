"""What the soak takes for growth, and for a job that is not accounted for."""

from __future__ import annotations

from typing import Any

import pytest
from faults.growth import KEPT, MARGINS, growth, longest_life, problems, table
from soak import drawn_fault


def row(number: int, **changes: Any) -> dict[str, Any]:
    ended = {"state": "SUCCEEDED", "attempts": 1, "lost": 0, "doubled": 0, "seconds": 40.0, "told": []}
    ended |= {"phases": {"QUEUED": 1.0, "PREPARING": 39.0}}
    sizes = dict.fromkeys((*MARGINS, *KEPT), 1000) | {"api_since": 1, "supervisor_since": 1}
    return {"number": number, "id": f"job-{number}", "fault": "none", "missed": False} | ended | sizes | changes


def rows(count: int = 20, **changes: Any) -> list[dict[str, Any]]:
    return [row(number, **changes) for number in range(count)]


def test_jobs_that_all_end_in_a_service_that_stays_as_it_is_are_no_problem() -> None:
    assert problems(rows(), 20) == []


@pytest.mark.parametrize("name", MARGINS)
def test_a_size_that_rises_with_the_jobs_is_a_problem(name: str) -> None:
    found = rows()
    for each in found:
        each[name] = 1000 + each["number"] * MARGINS[name]
    # From the median of jobs 4 to 7 to that of jobs 16 to 19.
    assert growth(found)[name] == (1000 + 5.5 * MARGINS[name], 1000 + 17.5 * MARGINS[name])
    (problem,) = problems(found, 20)
    assert problem.startswith(f"{name} has grown from ")


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_by_design_is_shown_and_may_grow(name: str) -> None:
    found = rows()
    for each in found:
        each[name] = each["number"] * 10**9
    assert problems(found, 20) == []
    assert f"| {name} | 5500.0 MB | 17500.0 MB | 19000.0 MB |" in table(found)


def test_what_fills_at_first_and_a_single_large_value_are_none() -> None:
    found = rows()
    for each in found[:4]:
        each["root_bytes"] = 0
    found[18]["api_bytes"] = 10**12
    assert problems(found, 20) == []


def test_a_job_that_failed_or_is_missing_or_was_done_twice_is_a_problem() -> None:
    found = rows()
    found[3] |= {"state": "FAILED", "lost": 1, "fault": "driver: SIGKILL"}
    assert problems(found, 20) == ["job 3 (driver: SIGKILL): FAILED, lost 1, doubled 0"]
    assert problems(rows(19), 20) == ["20 jobs were submitted and 19 are accounted for"]
    twice = [*rows(), row(19)]
    assert problems(twice, 20) == ["20 jobs were submitted and 20 are accounted for"]
    assert problems([*rows(19), row(19, id="job-3")], 20) == ["20 jobs were submitted and 19 are accounted for"]


def test_a_fault_that_mostly_comes_after_its_jobs_end_is_a_problem() -> None:
    found = rows()
    for each in found[:4]:
        each |= {"fault": "driver: SIGKILL", "missed": each["number"] < 3}
    assert problems(found, 20) == ["driver: SIGKILL was drawn 4 times and missed 3 times"]
    found[0]["missed"] = False
    assert problems(found, 20) == []
    # Of two it may be chance.
    for each in found[4:6]:
        each |= {"fault": "supervisor: SIGKILL", "missed": True}
    assert problems(found, 20) == []


def test_what_a_process_collects_is_judged_over_the_jobs_of_one_process() -> None:
    found = rows()
    for each in found:
        # Started anew every five jobs at first, and never in the last ten.
        each["api_since"] = min(each["number"] // 5, 2)
        each["api_bytes"] = (each["number"] - 5 * each["api_since"]) * MARGINS["api_bytes"]
    assert [each["number"] for each in longest_life(found, "api_bytes")] == list(range(10, 20))
    assert len(longest_life(found, "root_bytes")) == 20
    (problem,) = problems(found, 20)
    assert problem.startswith("api_bytes has grown from ")
    for each in found[14:]:
        each["api_since"] = 3
    assert "api_bytes" not in growth(found)
    assert "| api_bytes | not judged: too few jobs of one process, or in all | | |" in table(found)


def test_faults_leave_the_service_alone_in_the_last_third() -> None:
    drawn = [drawn_fault(0, number, share=0.3, jobs=200) for number in range(200)]
    assert 40 < sum(fault != "none" for fault in drawn) < 80
    assert {fault.partition(":")[0].partition(",")[0] for fault in drawn[134:]} == {"none", "driver", "process of a trial"}
    assert any(fault.startswith(("API", "supervisor", "every process")) for fault in drawn[:134])


def test_the_table_counts_the_faults_that_happened() -> None:
    found = rows()
    found[2] |= {"fault": "driver: SIGKILL", "attempts": 2}
    found[5] |= {"fault": "driver: SIGKILL", "missed": True}
    text = table(found)
    assert text.startswith("20 jobs: 20 SUCCEEDED; 1 faults, 0 lost, 0 doubled, 21 attempts, 0.2 h")
    assert "without a fault of its own, medians: 40 (QUEUED 1, PREPARING 39)" in text
    assert "| driver: SIGKILL | 1 |" in text
    assert "| api_files | 1000 | 1000 | 1000 |" in text
