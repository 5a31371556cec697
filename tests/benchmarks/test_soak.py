"""What the soak takes for growth, and for a job that is not accounted for."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soak
from faults.growth import BOUNDS, KEPT, growth, longest_life, problems, table, unjudged
from soak import differences, drawn_fault, refuse_others

SETTINGS = {"jobs": 60, "at_once": 3, "faults": 0.3, "keep": 9, "seed": 0}
SINCE = ("api_since", "supervisor_since", "service_since", "ray_since")
MIB = 2**20


def row(number: int, **changes: Any) -> dict[str, Any]:
    ended = {"state": "SUCCEEDED", "attempts": 1, "lost": 0, "doubled": 0, "seconds": 40.0, "told": []}
    ended |= {"trials": {"complete": 2}, "asked": 2, "phases": {"QUEUED": 1.0, "PREPARING": 39.0}}
    sizes = dict.fromkeys((*BOUNDS, *KEPT), 1000) | dict.fromkeys(SINCE, 1)
    of = {"commit": "abc", "at": "2026-01-01", "settings": SETTINGS, "round": number - number % 3}
    return {"number": number, "id": f"job-{number}", "fault": "none", "missed": False} | ended | sizes | of | changes


def rows(count: int = 60, **changes: Any) -> list[dict[str, Any]]:
    return [row(number, **changes) for number in range(count)]


def measured(name: str, size: Callable[[int], float], count: int = 60) -> list[dict[str, Any]]:
    """Rows with this size after each round, by the number of the round's first job."""
    return [each | {name: size(each["round"])} for each in rows(count)]


def test_jobs_that_all_end_in_a_service_that_stays_as_it_is_are_no_problem() -> None:
    assert problems(rows(), 60) == []


def test_a_job_with_a_trial_that_failed_is_a_problem() -> None:
    found = [*rows(59), row(59, trials={"complete": 1, "failed": 1})]
    assert problems(found, 60) == ["job 59 (none): trials: {'complete': 1, 'failed': 1}, asked for: 2"]


@pytest.mark.parametrize("name", BOUNDS)
def test_a_size_that_rises_with_the_jobs_is_a_problem(name: str) -> None:
    found = measured(name, lambda number: 1000 + 2 * BOUNDS[name] * number)
    assert growth(found)[name].slope == pytest.approx(2 * BOUNDS[name])
    (problem,) = problems(found, 60)
    assert problem.startswith(f"{name} grows by ")
    assert problems(measured(name, lambda number: 1000 + BOUNDS[name] * number / 2), 60) == []


@pytest.mark.parametrize(("name", "leak"), [("api_files", 0.2), ("supervisor_files", 0.2), ("api_bytes", 1.5e6)])
def test_a_small_leak_of_each_job_is_a_problem_over_the_last_half(name: str, leak: float) -> None:
    drawn = random.Random(0)
    noise = 1e6 if name.endswith("_bytes") else 0
    sizes = {number: int(100e6 + leak * number + drawn.gauss(0, noise)) for number in range(0, 200, 3)}
    found = measured(name, sizes.__getitem__, 200)
    for each in found[:100]:
        each["api_since"] = each["supervisor_since"] = each["number"] // 20 - 10
    (problem,) = problems(found, 200)
    assert problem.startswith(f"{name} grows by ")


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", ["api_bytes", "supervisor_bytes", "service_bytes", "root_bytes", "database_bytes"])
def test_what_varies_from_round_to_round_is_none(name: str, seed: int) -> None:
    drawn = random.Random(seed)
    sizes = {number: int(100e6 + drawn.gauss(0, 1e6)) for number in range(0, 200, 3)}
    found = measured(name, sizes.__getitem__, 200)
    for each in found[:100]:
        each["api_since"] = each["supervisor_since"] = each["service_since"] = each["number"] // 20 - 10
    assert problems(found, 200) == []


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_by_design_is_shown_and_may_grow(name: str) -> None:
    found = measured(name, lambda number: number * 10**9)
    assert problems(found, 60) == []
    assert f"| {name} | 22500.00 MB | 55500.00 MB | 1000.00 MB | any | 57000.00 MB |" in table(found)


def test_what_fills_at_first_and_a_single_large_value_are_none() -> None:
    # Twelve jobs are there at once: nine that are kept, and those of a round.
    found = measured("root_bytes", lambda number: min(number, 12) * 4 * MIB)
    for each in found[54:57]:
        each["api_bytes"] = 10**12
    assert problems(found, 60) == []


def test_a_size_that_was_not_judged_is_a_problem_of_all_jobs_alone() -> None:
    found = rows()
    for each in found:
        each["api_since"] = each["number"] // 5
    assert unjudged(found) == ["api_bytes", "api_files"]
    assert [problem.partition(":")[0] for problem in problems(found, 60)] == [
        "api_bytes was not judged",
        "api_files was not judged",
    ]
    assert problems(found, 60, complete=False) == []
    assert unjudged(rows(20)) == list(BOUNDS)
    # Of one round with all jobs there is no slope.
    assert unjudged(rows(round=0)) == list(BOUNDS)


def test_rows_of_another_commit_or_of_other_options_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert differences(rows(), SETTINGS, "abc") == []
    assert differences([], SETTINGS, "abc") == []
    others = [*rows(), row(60, commit="def"), row(61, settings=SETTINGS | {"at_once": 4})]
    assert differences(others, SETTINGS, "abc") == ["commit is abc, in the rows def", "at_once is 3, in the rows 4"]
    without = {name: value for name, value in row(0).items() if name not in ("commit", "settings")}
    assert len(differences([without], SETTINGS, "abc")) == 1 + len(SETTINGS)
    monkeypatch.setattr(soak, "present_commit", lambda: "abc")
    assert refuse_others(rows(), SETTINGS, tmp_path) == "abc"
    with pytest.raises(SystemExit, match=r"at_once is 3, in the rows 4.*python benchmarks/soak.py --folder .*-2"):
        refuse_others(others, SETTINGS, tmp_path)


def test_a_job_that_failed_or_is_missing_or_was_done_twice_is_a_problem() -> None:
    found = rows()
    found[3] |= {"state": "FAILED", "lost": 1, "fault": "driver: SIGKILL"}
    assert problems(found, 60) == ["job 3 (driver: SIGKILL): FAILED, lost 1, doubled 0"]
    assert problems(rows(59), 60) == ["60 jobs were submitted and 59 are accounted for"]
    twice = [*rows(), row(59)]
    assert problems(twice, 60) == ["60 jobs were submitted and 60 are accounted for"]
    assert problems([*rows(59), row(59, id="job-3")], 60) == ["60 jobs were submitted and 59 are accounted for"]


def test_a_fault_that_mostly_comes_after_its_jobs_end_is_a_problem() -> None:
    found = rows()
    for each in found[:4]:
        each |= {"fault": "driver: SIGKILL", "missed": each["number"] < 3}
    assert problems(found, 60) == ["driver: SIGKILL was drawn 4 times and missed 3 times"]
    found[0]["missed"] = False
    assert problems(found, 60) == []
    # Of two it may be chance.
    for each in found[4:6]:
        each |= {"fault": "supervisor: SIGKILL", "missed": True}
    assert problems(found, 60) == []


def test_what_a_process_collects_is_judged_over_the_jobs_of_one_process() -> None:
    found = rows()
    for each in found:
        # Started anew every six jobs at first, and never in the last thirty.
        each["api_since"] = min(each["round"] // 6, 5)
        each["api_bytes"] = (each["round"] - 6 * each["api_since"]) * MIB
    assert [each["number"] for each in longest_life(found, "api_bytes")] == list(range(30, 60))
    assert len(longest_life(found, "root_bytes")) == 60
    (problem,) = problems(found, 60)
    assert problem.startswith("api_bytes grows by ")
    for each in found[45:]:
        each["api_since"] = 6
    assert "api_bytes" not in growth(found)
    assert "| api_bytes | not judged: too few jobs of one process, or in all | | | | |" in table(found)


def test_faults_leave_the_service_alone_in_the_last_half() -> None:
    drawn = [drawn_fault(0, number, share=0.3, jobs=200) for number in range(200)]
    assert 40 < sum(fault != "none" for fault in drawn) < 80
    ending = ("API", "supervisor", "every process")
    assert not any(fault.startswith(ending) for fault in drawn[100:])
    assert any(fault.startswith("driver") for fault in drawn[100:])
    assert any(fault.startswith(ending) for fault in drawn[:100])
    assert any("locked by another process" in fault for fault in drawn)


def test_the_table_counts_the_faults_that_happened() -> None:
    found = rows()
    found[2] |= {"fault": "driver: SIGKILL", "attempts": 2}
    found[5] |= {"fault": "driver: SIGKILL", "missed": True}
    text = table(found)
    assert text.startswith("60 jobs: 60 SUCCEEDED; 1 faults, 0 lost, 0 doubled, 61 attempts, 0.7 h")
    assert "without a fault of its own, medians: 40 (QUEUED 1, PREPARING 39)" in text
    assert "| driver: SIGKILL | 1 |" in text
    assert "| api_files | 1000 | 1000 | 0 | 0.05 | 1000 |" in text
    assert text.endswith("Measured: 2026-01-01 at abc with jobs=60 at_once=3 faults=0.3 keep=9 seed=0")
