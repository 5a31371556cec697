"""`python -m workers.service.attempt JOB ATTEMPT`: the driver of one attempt at a submitted job.

Nothing else reaches its command line. Where the queue is and where files go stands in its environment (`DriverSettings`); what is to be
done is read from the queue. Its log lies in the job's folder and outlives the cluster; what happens is told on stdout, as JSON lines.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from autoslim.config import JobSpec, read_json
from autoslim.core.job import SearchJob
from autoslim.core.logs import bind, json_handler
from autoslim.core.run_folder import RunFolder
from autoslim.errors import AutoslimError, ClusterError, JobError, LeaseLostError
from autoslim.store import Claim, Failure, FailureClass, Queue, QueueState
from workers.progress.callbacks import SearchCallback
from workers.service.job_events import JobEvents
from workers.service.lease_keeper import LeaseKeeper
from workers.service.log_streams import LogTee
from workers.service.settings import DriverSettings, read_driver_settings

if TYPE_CHECKING:
    from workers.search.summary import Summary

_log = logging.getLogger(__name__)

_REUSED = 50
"""The latest so many jobs of a tenant are looked at where all are to be reused."""


class Run(Protocol):
    """`workers.search.driver.run_search`, or what stands in for it."""

    def __call__(self, job: SearchJob, *, resume: bool, storage: str, callback: SearchCallback) -> Summary: ...


def main(arguments: Sequence[str], run: Run | None = None) -> int:
    """Returns 0 when the job was brought to a state and the state written down, whatever it is."""
    _stop_on_signals()
    try:
        job_id, attempt = arguments[0], int(arguments[1])
        settings = read_driver_settings()
        with Queue(settings.storage) as queue:
            owner = f"{socket.gethostname()}:{os.getpid()}"
            # Adopting first: whoever is not to drive this job may not even write its log.
            claim = queue.adopt(job_id, attempt, owner, settings.lease_seconds)
            bind(job_id=job_id, attempt=attempt)
            with _log_to(settings.log(job_id, attempt)) as lines, LeaseKeeper(queue, claim, settings.lease_seconds) as keeper:
                return _attempt(settings, queue, claim, keeper, lines, run)
    except AutoslimError as error:
        sys.stderr.write(f"autoslim: {error}\n")
        return error.exit_code


def _attempt(settings: DriverSettings, queue: Queue, claim: Claim, keeper: LeaseKeeper, lines: LogTee, run: Run | None) -> int:
    spec: JobSpec | None = None
    _log.info("attempt %d at job %s begins", claim.attempt, claim.id)
    try:
        spec = read_json(queue.get(claim.id).spec)
        job = spec.to_job(id=claim.id, placement=settings.placement(claim.id))
        job = job.replace(reuse=reusable(queue, job))
        # A job's folder and id are its own, so that there is nothing to be overwritten by going on where nothing has been begun.
        events = JobEvents(queue, claim, lines, abandon=keeper.abandon)
        summary = (run or _driver())(job, resume=True, storage=settings.storage, callback=events)
        state, outcome = _ended(summary, claim, spec)
    except KeyboardInterrupt:
        state = QueueState.CANCELLED if keeper.cancelled else QueueState.QUEUED
        outcome = {} if keeper.cancelled else {"reason": "its driver was stopped"}
    except LeaseLostError:
        raise
    except Exception as error:  # noqa: BLE001 - here a job ends, and what became of it is written down
        _log.exception("the search ended with an error")
        from workers.service.failure import diagnose

        found = diagnose(error, job_id=claim.id, spec=spec)
        if isinstance(found, Failure):
            state, outcome = QueueState.FAILED, {"failure": found}
        else:
            state, outcome = QueueState.PAUSED, {"reason": f"{found.failure_class.value.lower()}: {found.reason}"}
    _log.info("job %s is %s now", claim.id, state.value)
    # From here on the lease is not needed any more: who is quicker than it now, has the job.
    keeper.close()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _write_down(queue, claim, state, outcome, patience=settings.lease_seconds)
    return 0


def reusable(queue: Queue, job: SearchJob) -> tuple[str, ...]:
    """The ids of the jobs that are to be reused, all of them the same tenant's; no folder is looked at for a tenant.

    Raises:
        RequestError: for another's job, or none.
    """
    if RunFolder(Path(job.output)).warm_start.is_file():
        # An earlier attempt has written down what it took; the jobs may have been purged since.
        return job.reuse
    tenant, ids = queue.get(job.id).tenant, list[str]()
    for source in job.reuse:
        if source == "all":
            ids += [other.id for other in queue.list(tenant, states=[QueueState.SUCCEEDED], limit=_REUSED)]
        else:
            ids.append(queue.get(source, tenant).id)
    return tuple(dict.fromkeys(ids))


def _driver() -> Run:
    """Late, so that a lease is held and a log is kept while the heavy packages load."""
    from workers.search.driver import run_search

    return run_search


def _ended(summary: Summary, claim: Claim, spec: JobSpec) -> tuple[QueueState, dict[str, object]]:
    if not summary.models:
        from workers.service.failure import nothing_within

        return QueueState.FAILED, {"failure": nothing_within(list(summary.missing), job_id=claim.id, spec=spec)}
    result = {
        "models": [{**model.to_dict(), "folder": f"models/{model.label}"} for model in summary.models],
        "missing": list(summary.missing),
        "dense": {"flops": summary.dense_flops, "accuracy": summary.dense_accuracy},
        "trials": summary.states,
        "logged": summary.logged,
        "reasons": {label: reason.sentence for label, reason in summary.reasons.items()},
        "cost": {**summary.cost.to_dict(), "money": summary.cost.money},
    }
    return QueueState.SUCCEEDED, {"result": json.dumps(result, sort_keys=True)}


def _write_down(queue: Queue, claim: Claim, state: QueueState, outcome: dict[str, object], *, patience: float) -> None:
    """Tries again while the database is down, as long as the lease may hold; after that the job is taken over anyway."""
    give_up = time.monotonic() + patience
    while True:
        try:
            return queue.advance(claim, state, **outcome)  # type: ignore[arg-type]
        except ClusterError as error:
            if time.monotonic() > give_up:
                raise
            _log.warning("%s could not be written down yet: %s", state.value, error)
            time.sleep(1.0)
        except JobError as error:
            # A search that ended before its time: a mistake of ours, which is to be seen as one.
            failure = Failure(failure_class=FailureClass.BUG, message=str(error), next=f"autoslim logs {claim.id}")
            state, outcome = QueueState.FAILED, {"failure": failure}


def _stop_on_signals() -> None:
    """The search has its own handlers while it runs, and gives these back."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[LogTee]:
    """Everything that this process and its children say goes to the file, for people.

    Yields where lines of JSON go, for log collectors: what was stdout before, and a file of that name that ends in `.jsonl`. What is
    logged goes there, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stdout, path.with_suffix(".jsonl").open("a", encoding="utf-8") as kept:
        lines = LogTee(stdout, kept)
        with path.open("a", encoding="utf-8", buffering=1) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
        for noisy in ("alembic", "mlflow", "ray", "httpx", "urllib3"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        handler = json_handler(lines)
        logging.getLogger().addHandler(handler)
        try:
            yield lines
        finally:
            logging.getLogger().removeHandler(handler)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
