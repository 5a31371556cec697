"""Does a service stay as it is over many jobs with faults? Memory, open files, disk and database, and what became of every job.

    python benchmarks/soak.py [--jobs 200] [--at-once 3] [--hours 2] [--faults 0.3] [--keep 20] [--seed 0] [--folder runs/soak]

One `autoslim serve` on loopback and small jobs in rounds of `--at-once`, each a real search over scikit-learn's digits. A share of them,
drawn by the seed, meets a fault when its first trial has ended: one of `faults/kills.py`, or the service's database or MLflow's is locked
by another process for some seconds. A job is deleted when `--keep` later ones have ended, as an operator's retention does, so that nothing
has a reason to grow. After each round, when no driver is left, its jobs' rows are written to FOLDER/rows.jsonl; a second start goes on
after the last row, with the same service folder, also after the first one was killed in the middle of a round, and `--hours` ends a call
between two rounds. All rows are of one commit, with the same changes to it, and of the same options: a call with others is refused.

A job is as small as a search can be: two trials of one epoch, one after the other, in one process for trials, and its runs go to one SQLite
file of MLflow's, since making such a file is work for seconds. What is left of its time is the start of its processes, much of which one
job alone leaves a machine of two cores idle for.

The exit code is 1 where a job did not end with its model, something was lost or doubled, the service lists other jobs than those that are
left, a size grows with each job by more than its bound (`BOUNDS` in `faults/growth.py`), or could not be judged when all jobs have ended.
MLflow's file has no bound: it keeps the runs of deleted jobs. Jobs until `--keep` of them are kept, and the first fifth of those that are
left, count for nothing: caches fill. What a process has, memory and open files, is judged over the jobs that one process has served: in the
last half of the jobs faults leave the API and the supervisor alone, since a process that is started anew hides what it would have
collected. A call that ends before the last job judges the jobs so far, and names the sizes that it could not judge.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import math
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil

sys.path[:0] = [str(Path(__file__).parents[1] / "deploy")]

from faults import kills  # noqa: E402
from faults.case import Case, Stage  # noqa: E402
from faults.growth import NO_FAULT, PROCESSES, problems, table, unjudged  # noqa: E402
from faults.leftovers import claimed, prefix  # noqa: E402
from faults.rows import keep_row, kept_rows  # noqa: E402
from faults.service import Service, belongs, until  # noqa: E402
from faults.user import SMALL, User  # noqa: E402
from service_faults import present_commit  # noqa: E402

_PATIENCE = 3600.0
"""Seconds for a job: beside others, with the faults of all of them, and on a busy machine."""
_LOCKED_SECONDS = 10.0
"""A quarter of what a search waits for its database."""


def _locked(stage: Stage, *, name: str) -> str:
    """Another process keeps the write lock of this SQLite file, which is one of the soak's folder."""
    file = stage.folder / name
    until(lambda: file.exists() or None, f"{file}")
    with contextlib.closing(sqlite3.connect(file, timeout=60, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(_LOCKED_SECONDS)
        connection.execute("ROLLBACK")
    return ""


_LOCKS = [
    Case(f"{whose} locked by another process for {_LOCKED_SECONDS:.0f} s", partial(_locked, name=name))
    for whose, name in (("the service's SQLite file", "root/autoslim.db"), ("MLflow's SQLite file", "mlflow.db"))
]
_FAULTS = {case.name: case for case in (*kills.CASES, *_LOCKS) if not case.may_fail}
_OF_A_JOB = [name for name in _FAULTS if not name.startswith(("API", "supervisor", "every process"))]
"""Faults after which the API and the supervisor are the same processes."""
_CACHE = "cache"
"""Of the soak's own, so that what jobs leave there is seen."""


def drawn_fault(seed: int, number: int, *, share: float, jobs: int) -> str:
    """Of the job `number`."""
    drawn = random.Random(f"{seed}:{number}")
    if drawn.random() >= share:
        return NO_FAULT
    return drawn.choice(sorted(_FAULTS) if 2 * number < jobs else _OF_A_JOB)


def measured(service: Service, folder: Path, scratch: Path) -> dict[str, int]:
    """When no driver is left; `folder` is the soak's, `scratch` Ray's."""
    until(lambda: None if any((service.root / "drivers").glob("*.json")) else True, "the end of all drivers")
    sizes = _of_all_processes(service)
    for name, process in zip(PROCESSES, (service.api, service.supervisor()), strict=True):
        sizes |= {f"{name}_bytes": process.memory_info().rss, f"{name}_files": process.num_fds()}
        sizes[f"{name}_since"] = round(100 * process.create_time())
    # The supervisor is the API's: it begins anew where the API does.
    sizes["service_since"] = sizes["supervisor_since"]
    # Ray's folder is the call's.
    sizes["ray_since"] = round(100 * psutil.Process().create_time())
    database = sum(path.stat().st_size for path in service.root.glob("autoslim.db*"))
    sizes |= {"database_bytes": database, "root_bytes": _bytes(service.root) - database, "ray_bytes": _bytes(scratch)}
    return sizes | {
        "cache_bytes": _bytes(folder / _CACHE),
        "mlflow_bytes": sum(path.stat().st_size for path in folder.glob("mlflow.db*")),
    }


def _of_all_processes(service: Service) -> dict[str, int]:
    """The API and whatever it has started, among which are the planner and the supervisor, and what has left them and still belongs."""
    found = {service.api, *service.api.children(recursive=True)}
    found |= {process for process in psutil.process_iter() if belongs(process, service.root)}
    sizes = {"processes": 0, "service_bytes": 0, "service_files": 0}
    for process in found:
        # What ends meanwhile is none.
        with contextlib.suppress(psutil.NoSuchProcess):
            memory, files = process.memory_info().rss, process.num_fds()
            sizes = {name: sizes[name] + more for name, more in zip(sizes, (1, memory, files), strict=True)}
    return sizes


def running_service(folder: Path, scratch: Path, at_once: int) -> contextlib.AbstractContextManager[Service]:
    """One trial of a job at a time: a second process for trials would take as long to start as the job."""
    environment = {"RAY_TMPDIR": str(scratch), "AUTOSLIM_CONCURRENCY": "1", "AUTOSLIM_JOBS": str(at_once)}
    environment |= {"AUTOSLIM_CACHE": str(folder / _CACHE)}
    tracking = ("--tracking-uri", f"sqlite:///{folder / 'mlflow.db'}")
    return Service(folder, options=tracking, environment=environment).running()


def _bytes(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            # What is being deleted meanwhile.
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def play(service: Service, folder: Path, scratch: Path, faults: Mapping[int, str]) -> list[dict[str, Any]]:
    """A round: the rows of the jobs with these numbers, which run at once. Their faults happen one after the other."""
    striking, struck = threading.Lock(), threading.Barrier(len(faults))
    rows, errors = dict[int, dict[str, Any]](), list[Exception]()

    def play_one(number: int, fault: str) -> None:
        """The idempotency key is the number's, so that it is the same job after an interruption of this program."""
        name = f"soak-{number}"
        try:
            user = User(service.url, spec=SMALL | {"name": name}, idempotency_key=name, patience=_PATIENCE)
            with contextlib.closing(user):
                user.submit()
                user.until_trials(1)
                with striking:
                    missed = fault != NO_FAULT and not _strike(service, user, fault)
                user.until_ended()
                # A verdict is asked of an API that nobody kills meanwhile.
                struck.wait()
                row = {"number": number, "id": user.job["id"], "fault": fault, "missed": missed}
                rows[number] = row | dataclasses.asdict(user.verdict())
        except threading.BrokenBarrierError:
            # Another job's thread has given up, and says why.
            return
        except Exception as error:  # noqa: BLE001 - raised below, in the thread that ends the service
            errors.append(error)
            struck.abort()

    # Of daemons: an interrupted call does not wait for them.
    threads = [threading.Thread(target=play_one, args=one, daemon=True) for one in faults.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    sizes = measured(service, folder, scratch)
    return [rows[number] | sizes | {"round": min(faults)} for number in faults]


def _strike(service: Service, user: User, fault: str) -> bool:
    """Whether the fault has happened; not where the job ended before it, as after an interruption of this program."""
    if user.ended:
        return False
    try:
        _FAULTS[fault].strike(Stage(service.root.parent, service, user))
    except (TimeoutError, psutil.NoSuchProcess):
        # The job has ended while its process was looked for; anything else is a mistake.
        if not user.ended:
            raise
        return False
    return True


def delete(service: Service, row: dict[str, Any]) -> None:
    """As the operator's retention does. The API may be about to start again."""

    def deleted() -> bool | None:
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.delete(f"{service.url}/v1/jobs/{row['id']}", timeout=60, trust_env=False)
            return answer.status_code in (204, 404) or None
        return None

    until(deleted, "a deletion")


def unaccounted(service: Service, rows: Sequence[dict[str, Any]]) -> list[str]:
    """What differs between these jobs, none of which is deleted, and those that the service lists."""
    listed: list[str] = []
    page = {"page_size": "200"}
    with httpx.Client(base_url=service.url, timeout=60, trust_env=False) as http:
        while page:
            answer = http.get("/v1/jobs", params=page).raise_for_status().json()
            listed += [job["id"] for job in answer["jobs"]]
            page = page | {"page_token": answer["next_page_token"]} if answer["next_page_token"] else {}
    kept = {row["id"] for row in rows}
    found = [f"the service has a job that nobody submitted, or that was deleted: {job}" for job in listed if job not in kept]
    return found + [f"the service has lost job {row['number']}: {row['id']}" for row in rows if row["id"] not in listed]


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What all rows have in common."""
    return {name: getattr(arguments, name) for name in ("jobs", "at_once", "faults", "keep", "seed")}


def differences(rows: Sequence[dict[str, Any]], settings: Mapping[str, Any], commit: str) -> list[str]:
    """What of these rows is not of this commit and these settings: they are of another soak. The service's history is one."""
    now, found = {"commit": commit, **settings}, dict[str, None]()
    for row in rows:
        then = {"commit": row.get("commit"), **row.get("settings", {})}
        found |= {f"{name} is {now[name]}, in the rows {then.get(name)}": None for name in now if then.get(name) != now[name]}
    return list(found)


def refuse_others(rows: Sequence[dict[str, Any]], settings: Mapping[str, Any], folder: Path) -> str:
    """The commit of all rows, those of before and the next ones. Raises SystemExit where they differ."""
    commit = present_commit()
    if found := differences(rows, settings, commit):
        raise SystemExit(
            f"{folder / 'rows.jsonl'} is of another soak: {'; '.join(found)}; give its options and check out its commit to go on, or begin "
            f"anew: python benchmarks/soak.py --folder {folder}-2"
        )
    return commit


def run(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of all jobs so far, and what is wrong with the service's list of them."""
    folder: Path = arguments.folder.absolute()
    file, keep = folder / "rows.jsonl", arguments.keep
    rows, settings = kept_rows(file), settings_of(arguments)
    refuse_others(rows, settings, folder)
    scratch = Path(tempfile.mkdtemp(prefix=prefix(), dir="/tmp"))
    until_later = time.monotonic() + 3600 * arguments.hours
    try:
        with running_service(folder, scratch, arguments.at_once) as service:
            # An interrupted call may have left the last of them.
            deleted = 0
            while len(rows) < arguments.jobs and time.monotonic() <= until_later:
                # Before it: of a tree that has changed meanwhile the row is of no later call.
                commit = refuse_others(rows, settings, folder)
                deleted = _delete_all(service, rows, deleted, keep)
                numbers = range(len(rows), min(len(rows) + arguments.at_once, arguments.jobs))
                share, jobs = arguments.faults, arguments.jobs
                faults = {number: drawn_fault(arguments.seed, number, share=share, jobs=jobs) for number in numbers}
                began = time.monotonic()
                for row in play(service, folder, scratch, faults):
                    rows.append(row | {"commit": commit, "at": datetime.date.today().isoformat(), "settings": settings})
                    keep_row(file, rows[-1])
                seconds = time.monotonic() - began
                told = ", ".join(f"{number}: {fault}: {rows[number]['state']}" for number, fault in faults.items())
                print(f"{told} in {seconds:.0f} s", file=sys.stderr)
            _delete_all(service, rows, deleted, keep)
            return rows, unaccounted(service, rows[max(0, len(rows) - keep) :])
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _delete_all(service: Service, rows: Sequence[dict[str, Any]], deleted: int, keep: int) -> int:
    """All rows' jobs but the last, of which the first are deleted already; how many are by now."""
    last = max(deleted, len(rows) - keep)
    for row in rows[deleted:last]:
        delete(service, row)
    return last


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=3, help="jobs of a round")
    parser.add_argument("--hours", type=float, default=math.inf, help="no round is begun after so long; the next call goes on")
    parser.add_argument("--faults", type=float, default=0.3, help="share of the jobs that meet one")
    parser.add_argument("--keep", type=int, default=20, help="ended jobs that are not deleted")
    parser.add_argument("--seed", type=int, default=0, help="of which jobs meet which fault")
    parser.add_argument("--folder", type=Path, default=Path("runs/soak"), help="the service's folder and the rows")
    arguments = parser.parse_args()
    with claimed(arguments.folder.absolute()):
        rows, found = run(arguments)
    complete = len(rows) >= arguments.jobs
    print(table(rows))
    found += problems(rows, len(rows), complete=complete)
    print("\n".join(found), file=sys.stderr)
    if not complete:
        print(f"not judged yet: {', '.join(unjudged(rows)) or 'nothing'}", file=sys.stderr)
        print(f"{len(rows)} of {arguments.jobs} jobs; the same command goes on with the others", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
