"""The table of faults, and that the clock of a process can be set back without the machine's."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import service_faults
from faults.case import Case
from faults.rows import keep_row
from faults.user import JOBS, PATIENCE, overtaken, phases
from service_faults import (
    CASES,
    LONGEST,
    UNDISTURBED,
    SharedService,
    broken_rules,
    in_order,
    kept_or_played,
    known_rows,
    play_all,
    present_commit,
    table,
    undisturbed,
)

LONGER = next(case for case in CASES if case.job == "longest" and case not in UNDISTURBED)


@pytest.fixture
def commit(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Its last element is the present commit."""
    commits = ["4a0ef91"]
    monkeypatch.setattr(service_faults, "present_commit", lambda: commits[-1])
    return commits


def row(case: str, seconds: float, **changes: object) -> dict[str, object]:
    nothing = {"state": "SUCCEEDED", "attempts": 1, "lost": 0, "doubled": 0, "told": [], "others": "", "lasted": 0.0, "left": 0}
    nothing |= {"trials": {"complete": 3, "stopped": 1}, "asked": 4}
    return nothing | {"case": case, "seconds": seconds} | changes


def test_a_time_is_told_over_the_mean_of_the_undisturbed_ones() -> None:
    first, second, *_ = (case.name for case in UNDISTURBED)
    told = ["PAUSED: the disk is full", "503: a | b"]
    lines = table([row(first, 40.0), row(second, 50.0), row("a fault", 65.0, attempts=2, told=told)]).splitlines()
    assert lines[2] == "| none | 30 | SUCCEEDED | 1 | 0 | 0 | 0 | 40 | -5 | 0.89 | nothing |  |"
    assert (
        lines[4] == r"| a fault | 30 | SUCCEEDED | 2 | 0 | 0 | 0 | 65 | +20 | 1.44 | PAUSED: the disk is full<br>503: a \| b |  |"
    )


def test_a_longer_job_is_held_against_the_undisturbed_longer_one() -> None:
    rows = [
        row("none", 40.0),
        row("none, longer job", 200.0, job="longer"),
        row("a fault", 62.0),
        row("another", 310.0, job="longer"),
    ]
    assert (undisturbed(rows, "lasting"), undisturbed(rows, "longer")) == (40.0, 200.0)
    assert undisturbed(rows[::2], "longer") is None
    lines = table(rows).splitlines()
    assert "| 62 | +22 | 1.55: **too long** |" in lines[4]
    assert (
        lines[5].startswith(f"| another | {JOBS['longer']['epochs']:.0f} |") and "| 310 | +110 | 1.55: **too long** |" in lines[5]
    )


def test_an_undisturbed_job_is_played_before_any_that_is_held_against_it() -> None:
    assert in_order(CASES)[: len(UNDISTURBED)] == UNDISTURBED
    assert {case.job for case in CASES} == {case.job for case in UNDISTURBED} == JOBS.keys()


def test_a_row_of_another_job_than_its_case_has_by_now_is_not_used_again(tmp_path: Path, commit: list[str]) -> None:
    file = tmp_path / "results.jsonl"
    # As they were when there was one job.
    keep_row(file, row("none", 40.0, commit=commit[-1]))
    keep_row(file, row(LONGER.name, 90.0, commit=commit[-1]))
    assert list(known_rows(file)) == ["none"]
    keep_row(file, row(LONGER.name, 210.0, job="longest", commit=commit[-1]))
    assert {name: kept["seconds"] for name, kept in known_rows(file).items()} == {"none": 40.0, LONGER.name: 210.0}
    assert kept_or_played(LONGER, file, SharedService())["seconds"] == 210.0


def test_a_row_of_another_commit_is_played_again(tmp_path: Path, commit: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    file, case = tmp_path / "results.jsonl", UNDISTURBED[0]
    monkeypatch.setattr(service_faults, "play", lambda case, shared: row(case.name, 50.0, commit=commit[-1]))
    keep_row(file, row(case.name, 30.0))
    keep_row(file, row(case.name, 40.0, commit=commit[-1]))
    assert kept_or_played(case, file, SharedService())["seconds"] == 40.0
    commit.append("4a0ef91-dirty-00000000")
    assert known_rows(file) == {}
    assert kept_or_played(case, file, SharedService())["seconds"] == 50.0
    assert {name: kept["seconds"] for name, kept in known_rows(file).items()} == {case.name: 50.0}


def test_a_case_that_is_not_of_the_last_cases_commit_is_told(
    tmp_path: Path, commit: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(case: Case, shared: SharedService) -> dict[str, object]:
        found = row(case.name, 40.0, job=case.job, commit=commit[-1])
        if case.name == "none, once more":
            commit.append("ebfb238")
        return found

    monkeypatch.setattr(service_faults, "play", play)
    known, problems = play_all(UNDISTURBED, tmp_path / "results.jsonl")
    assert known.keys() == {"none, longer job", "none, longest job"}
    assert problems.keys() == {"none", "none, once more"}
    assert play_all(UNDISTURBED, tmp_path / "results.jsonl")[1] == {}


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_tree_with_changes_is_another_commit_than_without_and_than_with_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_faults, "__file__", str(tmp_path / "benchmarks" / "service_faults.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    assert present_commit() == "unknown"
    git(tmp_path, "init")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "one")
    clean = present_commit()
    (tmp_path / "file").write_text("two")
    two = present_commit()
    (tmp_path / "file").write_text("three")
    assert two.startswith(f"{clean}-dirty-")
    assert present_commit() not in (clean, two)
    (tmp_path / "file").write_text("one")
    assert present_commit() == clean


def test_without_git_rows_are_told_apart_by_their_folder_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert present_commit() == "unknown"


def test_a_case_may_take_several_times_as_long_as_its_job_does_undisturbed() -> None:
    """On slow cores, where the three took 121, 310 and 1100 s."""
    assert PATIENCE.keys() == JOBS.keys()
    assert all(PATIENCE[job] > LONGEST * seconds for job, seconds in zip(JOBS, (121, 310, 1100), strict=True))


def test_a_case_breaks_a_rule_where_its_job_takes_another_driver_than_it_has_to() -> None:
    case = Case("a fault", lambda stage: "", attempts=1)
    assert broken_rules(row("a fault", 40.0, attempts=1), case, 40.0) == []
    assert broken_rules(row("a fault", 40.0, attempts=2), case, 40.0) == ["attempts: 2, expected: 1"]


@pytest.mark.parametrize(
    ("changes", "may_fail", "broken"),
    [
        ({}, False, []),
        ({"attempts": 3, "told": ["QUEUED: the driver was stopped"]}, False, []),
        ({"state": "FAILED", "lost": 1, "told": ["FAILED: out of memory"]}, True, []),
        ({"state": "FAILED", "lost": 1, "told": []}, True, ["the job is FAILED", "lost: 1"]),
        ({"state": "FAILED", "lost": 1, "told": ["FAILED: out of memory"]}, False, ["the job is FAILED", "lost: 1"]),
        ({"state": "FAILED", "lost": 2, "told": ["FAILED: out of memory"]}, True, ["lost: 1"]),
        ({"trials": {"complete": 3}}, False, ["trials: {'complete': 3}, asked for: 4"]),
        ({"trials": {"complete": 4, "failed": 1}}, False, ["trials: {'complete': 4, 'failed': 1}, asked for: 4"]),
        ({"trials": {"complete": 4, "failed": 1}}, True, []),
        ({"trials": {"complete": 4, "running": 1}}, False, ["trials: {'complete': 4, 'running': 1}, asked for: 4"]),
        ({"doubled": 1, "left": 2}, True, ["doubled: 1", "processes left: 2"]),
    ],
)
def test_a_case_breaks_a_rule_where_something_is_lost_doubled_or_left(
    changes: dict[str, object], may_fail: bool, broken: list[str]
) -> None:
    case = Case("a fault", lambda stage: "", may_fail=may_fail)
    assert broken_rules(row("a fault", 60.0, **changes), case, 40.0) == broken


@pytest.mark.parametrize(
    ("seconds", "alone", "broken"),
    [(61.0, 40.0, ["1.52 times as long as undisturbed, allowed: 1.5"]), (60.0, 40.0, []), (1000.0, None, [])],
)
def test_a_job_may_take_half_as_long_again(seconds: float, alone: float | None, broken: list[str]) -> None:
    assert broken_rules(row("a fault", seconds), Case("a fault", lambda stage: ""), alone) == broken


def test_the_seconds_in_each_state_are_those_of_all_attempts() -> None:
    first = [("QUEUED", "00"), ("STARTING", "02.500"), ("PREPARING", "06"), ("SEARCHING", "16")]
    second = [("QUEUED", "20"), ("STARTING", "21"), ("SUCCEEDED", "41")]
    events = [{"type": "state", "data": {"state": state}, "at": f"2026-01-01T00:00:{at}Z"} for state, at in first + second]
    events.insert(4, {"type": "message", "data": {"text": "no state"}, "at": "2026-01-01T00:00:17Z"})
    assert phases(events) == {"QUEUED": 3.5, "STARTING": 23.5, "PREPARING": 10.0, "SEARCHING": 4.0}


@pytest.mark.parametrize("type", ["state", "message", "trial_ended"])
def test_what_an_earlier_attempt_writes_after_a_later_one_is_found(type: str) -> None:
    def events(*attempts: int) -> list[dict[str, object]]:
        return [{"type": type, "data": {"attempt": attempt}} for attempt in attempts] + [{"type": "message", "data": {}}]

    assert overtaken(events(0, 1, 1, 2, 2)) == 0
    assert overtaken(events(0, 1, 2, 1, 2, 1)) == 2


def test_an_event_of_an_earlier_attempt_is_found_among_the_states_of_the_next_one() -> None:
    began, message = {"type": "state", "data": {"attempt": 2}}, {"type": "message", "data": {"text": "a", "attempt": 1}}
    assert overtaken([message, began]) == 0
    assert overtaken([message, began, message]) == 1
    assert overtaken([message, began, {"type": "message", "data": {"text": "a cancellation was requested"}}]) == 0


def test_the_page_has_the_epochs_of_every_job() -> None:
    page = (Path(__file__).parents[2] / "docs" / "benchmarks" / "service-faults.md").read_text()
    rule = page[page.index("## The rule on wall time") :]
    assert [name for name, spec in JOBS.items() if f"| {spec['epochs']:.0f} |" not in rule] == []


def test_every_case_has_a_name_of_its_own_since_results_are_kept_by_it() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
def test_a_process_has_a_time_of_day_of_its_own_and_the_machines_steady_clock(tmp_path: Path) -> None:
    library, offset = tmp_path / "set_clock.so", tmp_path / "clock"
    source = Path(__file__).parents[2] / "benchmarks" / "faults" / "set_clock.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    offset.write_bytes(struct.pack("q", -3600))
    environment = {**os.environ, "LD_PRELOAD": str(library), "FAULTS_CLOCK": str(offset)}
    code = "import time; print(time.time(), time.monotonic())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    seen, steady = map(float, done.stdout.split())
    assert seen - time.time() == pytest.approx(-3600, abs=60)
    assert steady == pytest.approx(time.monotonic(), abs=60)
