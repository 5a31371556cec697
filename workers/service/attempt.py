"""`python -m workers.service.attempt JOB ATTEMPT`: the driver of one attempt of a queued job.

Its settings come from the environment (`DriverSettings`) and the spec from the queue, so that the command line, which other users can see,
has neither. The log is in the job's folder and outlives the cluster; stdout has events and messages as JSON lines.
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
from autoslim.core.private_files import write_privately
from autoslim.core.run_folder import RunFolder
from autoslim.errors import AutoslimError, JobError, LeaseLostError, UnavailableError
from autoslim.store import PATIENCE_SECONDS, Claim, Failure, FailureClass, Guard, Queue, QueueState, guard
from workers.progress.callbacks import SearchCallback
from workers.service.job_events import JobEvents
from workers.service.lease_keeper import LeaseKeeper
from workers.service.log_tee import LogTee
from workers.service.settings import DriverSettings, read_driver_settings

if TYPE_CHECKING:
    from workers.search.summary import Summary

_log = logging.getLogger(__name__)

# `reuse: [all]` reads the latest jobs of the tenant only: each of them costs a query and its trials' rows.
_MAX_REUSED = 50


class Run(Protocol):
    """The type of `workers.search.driver.run_search`."""

    def __call__(self, job: SearchJob, *, resume: bool, storage: str, callback: SearchCallback, guard: Guard) -> Summary: ...


def main(arguments: Sequence[str], run: Run | None = None) -> int:
    """Runs the attempt. Returns 0 when its outcome is in the queue, whatever the outcome is."""
    _stop_on_signals()
    # Here, too: a driver on a node of a cluster is no child of the supervisor.
    write_privately()
    try:
        job_id, attempt = arguments[0], int(arguments[1])
        settings = read_driver_settings()
        with Queue(settings.storage) as queue:
            owner = f"{socket.gethostname()}:{os.getpid()}"
            # Before anything is written: a driver that does not get the lease must not write the log of the one that has it.
            claim = queue.adopt(job_id, attempt, owner, settings.lease_seconds)
            bind(job_id=job_id, attempt=attempt)
            with (
                _open_log(settings.log(job_id, attempt)) as lines,
                # Without patience: the keeper tries again by itself, and ends this process when the lease has run out.
                LeaseKeeper(queue, claim, settings.lease_seconds) as keeper,
                Queue(settings.storage, patience=PATIENCE_SECONDS) as patient,
            ):
                return _attempt(settings, patient, claim, keeper, lines, run)
    except AutoslimError as error:
        sys.stderr.write(f"autoslim: {error}\n")
        return error.exit_code


def _attempt(settings: DriverSettings, queue: Queue, claim: Claim, keeper: LeaseKeeper, lines: LogTee, run: Run | None) -> int:
    spec: JobSpec | None = None
    _log.info("attempt %d of job %s starts", claim.attempt, claim.id)
    try:
        spec = read_json(queue.get(claim.id).spec)
        job = spec.to_job(id=claim.id, placement=settings.placement(claim.id))
        job = job.replace(reuse=reusable(queue, job))
        # Resuming is safe in the first attempt, too: the folder belongs to this job only.
        events = JobEvents(queue, claim, lines, abandon=keeper.abandon)
        held = guard(claim, keeper.abandon)
        summary = (run or _load_driver())(job, resume=True, storage=settings.storage, callback=events, guard=held)
        state, outcome = _outcome(summary, claim, spec)
    except KeyboardInterrupt:
        state = QueueState.CANCELLED if keeper.cancelled else QueueState.QUEUED
        outcome = {} if keeper.cancelled else {"reason": "the driver was stopped"}
    except LeaseLostError:
        raise
    except Exception as error:  # noqa: BLE001 - the job ends here, and its failure is written to the queue
        _log.exception("the search ended with an error")
        from workers.service.failure import diagnose

        found = diagnose(error, job_id=claim.id, spec=spec)
        if isinstance(found, Failure):
            state, outcome = QueueState.FAILED, {"failure": found}
        else:
            state, outcome = QueueState.PAUSED, {"reason": f"{found.failure_class.value.lower()}: {found.reason}"}
    _log.info("job %s is %s now", claim.id, state.value)
    # The lease need not be renewed any more. Its fencing token still guards the write: a driver that took over wins.
    keeper.close()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _write_outcome(queue, claim, state, outcome, patience=settings.lease_seconds)
    return 0


def reusable(queue: Queue, job: SearchJob) -> tuple[str, ...]:
    """The ids of the jobs whose trials are reused, all of the same tenant. Folders are not allowed here: they have no owner.

    Raises:
        RequestError: for an unknown job, or another tenant's.
    """
    if RunFolder(Path(job.output)).warm_start.is_file():
        # An earlier attempt has copied the trials; the jobs may have been purged since.
        return job.reuse
    tenant, ids = queue.get(job.id).tenant, list[str]()
    for source in job.reuse:
        if source == "all":
            ids += [other.id for other in queue.list(tenant, states=[QueueState.SUCCEEDED], limit=_MAX_REUSED)]
        else:
            ids.append(queue.get(source, tenant).id)
    return tuple(dict.fromkeys(ids))


def _load_driver() -> Run:
    """Imported late: the lease is held and the log is open while the heavy packages load."""
    from workers.search.driver import run_search

    return run_search


def _outcome(summary: Summary, claim: Claim, spec: JobSpec) -> tuple[QueueState, dict[str, object]]:
    if not summary.models:
        from workers.service.failure import no_model

        return QueueState.FAILED, {"failure": no_model(summary.why_missing, job_id=claim.id, spec=spec)}
    from workers.search.model_line import describe_model
    from workers.search.recommended import describe_recommended

    result = {
        "models": [{**model.to_dict(), "folder": f"models/{model.label}"} for model in summary.models],
        "missing": list(summary.missing),
        "why_missing": summary.why_missing,
        "images": summary.images,
        "dense": {"flops": summary.dense_flops, "accuracy": summary.dense_accuracy},
        "trials": summary.states,
        "logged": summary.logged,
        "lines": {model.label: describe_model(model, summary) for model in summary.models},
        "recommended": describe_recommended(summary),
        "reasons": {label: reason.sentence for label, reason in summary.reasons.items()},
        "cost": {**summary.cost.to_dict(), "money": summary.cost.money},
    }
    return QueueState.SUCCEEDED, {"result": json.dumps(result, sort_keys=True)}


def _write_outcome(queue: Queue, claim: Claim, state: QueueState, outcome: dict[str, object], *, patience: float) -> None:
    """Repeats the write for `patience` seconds while the database is down; another driver takes over after that.

    Raises:
        UnavailableError: when the database stays down.
        LeaseLostError: when another driver has taken over.
    """
    give_up = time.monotonic() + patience
    while True:
        try:
            return queue.transition(claim, state, **outcome)  # type: ignore[arg-type]
        except UnavailableError as error:
            if time.monotonic() > give_up:
                raise
            _log.warning("the state %s could not be written yet: %s", state.value, error)
            time.sleep(1.0)
        except JobError as error:
            # The queue refuses the transition: a search that ended too early is our bug, and must look like one.
            failure = Failure(failure_class=FailureClass.BUG, message=str(error), next=f"autoslim logs {claim.id}")
            state, outcome = QueueState.FAILED, {"failure": failure}


def _stop_on_signals() -> None:
    """Turns SIGINT and SIGTERM into KeyboardInterrupt; the search installs its own handlers while it runs and restores these."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


@contextlib.contextmanager
def _open_log(path: Path) -> Iterator[LogTee]:
    """Redirects stdout and stderr of this process and its children to the file.

    Yields the stream for JSON lines, which log records go to as well: the original stdout, and a file beside the log that ends in `.jsonl`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stdout, path.with_suffix(".jsonl").open("a", encoding="utf-8") as file:
        lines = LogTee(stdout, file)
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
