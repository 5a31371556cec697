"""What faults of the service and attacks on it cost a job: lost, doubled, time, and what its user is told.

    python benchmarks/service_faults.py [--folder runs/faults] [--only TEXT] [--attacks]

Each case has a job: a real search over scikit-learn's digits with a tiny model, on `autoslim serve`, started by its command on loopback.
When its first trial has ended, the fault happens; the user asks for the job four times a second and afterwards submits the same again. The
first rows are the jobs without a fault: there are longer ones for faults that cost a fixed time (`Case.job`). Cases that leave the service
as it was are played one after the other on the same one. What a case has shown is in FOLDER/results.jsonl; a second start at the same
commit, with the same changes to it, skips it, also after the first one was killed in the middle of another case.
`tests/benchmarks/test_played_faults.py` plays the same cases as tests, and keeps the same rows.

The exit code is 1 where a case breaks a rule: the job ends with its model (or, after some faults, says why not), no finished trial is lost
or counted twice, one submit makes one job, no process is left, and the job takes at most 1.5 times as long as undisturbed. A case that
needs what this machine does not have is skipped and named.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import hashlib
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "deploy")]

from faults import attacks, beside, cluster, kills, network, surroundings, takeovers, tracking  # noqa: E402
from faults.case import Case, MissingError, Stage, plain  # noqa: E402
from faults.leftovers import claimed, prefix  # noqa: E402
from faults.rows import all_trained, keep_row, kept_rows  # noqa: E402
from faults.service import Service, left_behind  # noqa: E402
from faults.user import JOBS, PATIENCE, User  # noqa: E402

UNDISTURBED = [
    *(Case(name, lambda stage: "") for name in ("none", "none, once more")),
    *(Case(f"none, {job} job", lambda stage: "", job=job) for job in ("longer", "longest")),
]
_PARTS = (kills, takeovers, surroundings, network, cluster, tracking, beside)
FAULTS = [*UNDISTURBED, *(case for part in _PARTS for case in part.CASES)]
CASES = [*FAULTS, *attacks.CASES]
LONGEST = 1.5
"""Wall time over that of the undisturbed job."""


class SharedService:
    """A `plain` service, started for the first case that takes it; `left` are the processes that were there after its ends."""

    def __init__(self) -> None:
        self.left = 0
        self._stack = contextlib.ExitStack()
        self._taken: tuple[Path, Service] | None = None

    def taken(self) -> tuple[Path, Service]:
        """Its folder and the service."""
        if self._taken is None:
            folder = self._stack.enter_context(_scratch())
            self._taken = folder, self._stack.enter_context(plain(folder))
        return self._taken

    def end(self) -> None:
        """The next case that takes it gets a new one."""
        taken, self._taken = self._taken, None
        self._stack.close()
        if taken is not None:
            self.left += left_behind(taken[1].root)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=prefix(), ignore_cleanup_errors=True) as name:
        yield Path(name)


def play(case: Case, shared: SharedService) -> dict[str, Any]:
    """What the table has of a case."""
    # Before it: of a tree that changes meanwhile the row is of no later call.
    commit = present_commit()
    if case.on_shared_service:
        folder, service = shared.taken()
        try:
            row = _played(case, folder, service)
            left = left_behind(service.root, service)
        except BaseException:
            shared.end()
            raise
        if left:
            # They are this case's, and not the next one's.
            shared.end()
    else:
        shared.end()
        with _scratch() as folder:
            with case.host(folder) as service:
                row = _played(case, folder, service)
            left = left_behind(folder / "root")
    return row | {"left": left, "commit": commit, "at": datetime.date.today().isoformat()}


def _played(case: Case, folder: Path, service: Service) -> dict[str, Any]:
    mine, theirs = (service.new_key("mine"), service.new_key("theirs")) if case.tenants else (None, None)
    number = [each.name for each in CASES].index(case.name)
    spec = JOBS[case.job] | case.spec | {"name": f"mine-{number}"}
    user = User(service.url, mine, spec=spec, patience=PATIENCE[case.job])
    with contextlib.closing(user):
        user.submit()
        if not case.early:
            user.until_trials(1)
        began = time.monotonic()
        try:
            others = case.strike(Stage(folder, service, user, theirs))
        except MissingError as error:
            # What the machine does not have shows at the host already: a case that has begun is not skipped.
            raise RuntimeError(f"the fault failed: {error}") from error
        lasted = time.monotonic() - began
        user.cancel_later()
        verdict = user.verdict()
    told = {"case": case.name, "job": case.job, "lasted": round(lasted, 1), "others": others}
    return told | dataclasses.asdict(verdict)


def known_rows(file: Path) -> dict[str, dict[str, Any]]:
    """The file's rows of the present commit by case, so that a table is of one; none of a case that has another job by now."""
    jobs, commit = {case.name: case.job for case in CASES}, present_commit()
    rows = [row for row in kept_rows(file) if row.get("commit") == commit]
    return {row["case"]: row for row in rows if job_of(row) == jobs.get(row["case"])}


def job_of(row: dict[str, Any]) -> str:
    """Its name in JOBS. Rows did not have it when there was one."""
    return str(row.get("job", "lasting"))


def undisturbed(rows: Iterable[dict[str, Any]], job: str) -> float | None:
    """Seconds of this job without a fault, where it was measured."""
    names = {case.name for case in UNDISTURBED}
    alone = [row["seconds"] for row in rows if row["case"] in names and job_of(row) == job]
    return sum(alone) / len(alone) if alone else None


def broken_rules(row: dict[str, Any], case: Case, alone: float | None) -> list[str]:
    """What must not be, of what a case has shown; `alone` is what its job takes undisturbed, without which the time is not judged."""
    times = row["seconds"] / alone if alone else 0.0
    said_why = case.may_fail and row["state"] == "FAILED" and bool(row["told"])
    # A job without its model counts as lost.
    lost = row["lost"] - said_why
    rules = {
        f"the job is {row['state']}": row["state"] == "SUCCEEDED" or said_why,
        f"lost: {lost}": lost == 0,
        f"doubled: {row['doubled']}": row["doubled"] == 0,
        f"trials: {row['trials']}, asked for: {row['asked']}": case.may_fail or all_trained(row),
        f"processes left: {row['left']}": row["left"] == 0,
        f"attempts: {row['attempts']}, expected: {case.attempts}": case.attempts in (None, row["attempts"]),
        f"{times:.2f} times as long as undisturbed, allowed: {LONGEST}": times <= LONGEST,
    }
    return [problem for problem, kept in rules.items() if not kept]


def present_commit() -> str:
    """Of a tree with changes, `-dirty-` and the start of their digest follow: it has other rows than its commit, and than other changes.
    Files that git does not know count for nothing. Without git, or outside a repository, it is `unknown`, so that rows are told apart by
    their folder alone.
    """
    commit = _git("describe", "--always").decode().strip()
    if not commit:
        return "unknown"
    changes = _git("diff", "HEAD")
    return f"{commit}-dirty-{hashlib.blake2b(changes, digest_size=4).hexdigest()}" if changes else commit


def _git(*words: str) -> bytes:
    """Stdout of the command in this file's repository; nothing where it fails."""
    try:
        return subprocess.run(["git", *words], cwd=Path(__file__).parents[1], capture_output=True).stdout
    except FileNotFoundError:
        return b""


_HEAD = (
    "fault or attack",
    "epochs of a trial",
    "state",
    "attempts",
    "lost",
    "doubled",
    "processes left",
    "job, s",
    "over undisturbed, s",
    "times undisturbed",
    "the user was told",
    "others were told",
)


def table(rows: list[dict[str, Any]]) -> str:
    lines = [_line(_HEAD), "|---" * len(_HEAD) + "|"]
    for row in rows:
        over = times = ""
        if alone := undisturbed(rows, job_of(row)):
            over, times = f"{row['seconds'] - alone:+.0f}", f"{row['seconds'] / alone:.2f}"
            if row["seconds"] > LONGEST * alone:
                times += ": **too long**"
        epochs = f"{JOBS[job_of(row)]['epochs']:.0f}"
        counted = (row[name] for name in ("state", "attempts", "lost", "doubled", "left"))
        told = "<br>".join(row["told"]) or "nothing"
        lines.append(_line((row["case"], epochs, *counted, f"{row['seconds']:.0f}", over, times, told, row["others"])))
    return "\n".join(lines)


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def in_order(cases: Iterable[Case]) -> list[Case]:
    """As they are played: those on the same service together, the undisturbed ones before all others."""
    return sorted(cases, key=lambda case: not case.on_shared_service)


def kept_or_played(case: Case, file: Path, shared: SharedService) -> dict[str, Any]:
    """The case's row in the file; without one the case is played, and its row kept there."""
    known = known_rows(file)
    if case.name not in known:
        known[case.name] = play(case, shared)
        print(json.dumps(known[case.name]), file=sys.stderr)
        keep_row(file, known[case.name])
    return known[case.name]


def play_all(cases: Iterable[Case], file: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The rows by case, of this call and of earlier ones, which are in the file; and why a case has none."""
    problems, skipped, shared = dict[str, str](), set[str](), SharedService()
    cases = in_order(cases)
    try:
        for case in cases:
            try:
                kept_or_played(case, file, shared)
            except MissingError as error:
                skipped.add(case.name)
                print(f"{case.name}: skipped: {error}", file=sys.stderr)
            except Exception as error:  # noqa: BLE001 - the other cases go on
                traceback.print_exc()
                problems[case.name] = f"not measured: {type(error).__name__}: {error}"
    finally:
        shared.end()
    if shared.left:
        problems["end of the service of several cases"] = f"processes left: {shared.left}"
    known = known_rows(file)
    for name in {case.name for case in cases} - known.keys() - problems.keys() - skipped:
        problems[name] = "measured of another commit: the tree has changed since; start again"
    return known, problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/faults"), help="where the results are kept")
    parser.add_argument("--only", default="", help="cases whose names have this text")
    parser.add_argument("--attacks", action="store_true", help="also the attacks, besides the faults")
    parser.add_argument("--list", action="store_true", help="print the names of the cases, and play none")
    arguments = parser.parse_args()
    cases = [case for case in (CASES if arguments.attacks else FAULTS) if arguments.only in case.name]
    if arguments.list:
        print("\n".join(case.name for case in cases))
        return 0
    with claimed(arguments.folder):
        known, problems = play_all(cases, arguments.folder / "results.jsonl")
    alone = {job: undisturbed(known.values(), job) for job in JOBS}
    for job in sorted({case.job for case in cases if alone[case.job] is None}):
        print(f"wall times of the {job} job are not judged: there is no row of it undisturbed", file=sys.stderr)
    for case in cases:
        if case.name in known and (broken := broken_rules(known[case.name], case, alone[case.job])):
            problems[case.name] = "; ".join(broken)
    rows = [known[case.name] for case in CASES if case.name in known]
    print(table(rows))
    print("\nMeasured: " + ", ".join(sorted({f"{row['at']} at {row['commit']}" for row in rows if "commit" in row})))
    for name, problem in problems.items():
        print(f"{name}: {problem}", file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
