"""The planner: `python -m autoslim.service.dry_run.planner_process` reads requests and writes answers, one JSON object per line.

A spec of a tenant is worked on here and not in the service: it may take seconds, or fail in a library. torch, timm and the methods are
imported once; then every request is answered by a fork, which takes milliseconds to make. A dry run that crashes, hangs or takes all of its
memory ends its own fork and no other one. The process has no address of a database and no key; it may be killed at any time, and ends
with its forks when its parent does.

It has one thread, because a fork has only the thread that made it, and the locks of the others would stay locked.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import resource
import selectors
import signal
import sys
import threading
import time
import traceback
from typing import Any, BinaryIO, NoReturn

import torch

from autoslim.config import read_mapping
from autoslim.errors import AutoslimError, BudgetError
from autoslim.service.dry_run.faults import SpecFault
from autoslim.service.dry_run.plan import OPERATIONS, dry_run

# Bytes of one answer; a plan is far smaller, and a fork that writes without end is stopped here.
_MAX_ANSWER = 2**22
# Bytes of address space that a dry run may take beyond the imports. The labels of the largest data set that is allowed by default take
# some hundred MiB.
_DRY_RUN_MEMORY = 3 * 2**30
# The id of the first line, which the service waits for: the process has imported everything.
READY_ID = 0

_WARM_UP: dict[str, Any] = {
    "model": "vit_tiny_patch16_224",
    "weights": "scratch",
    "data": "digits",
    "flops": ["50%"],
    "model_args": {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 1},
    "image_size": 16,
}
_NO_LIMITS = dict.fromkeys(("images", "parameters", "attention", "recipes"), sys.maxsize)


def respond(request: dict[str, Any]) -> dict[str, Any]:
    """The `result`; or the `fault` of the spec; or the `crash`, a traceback, for what no error of autoslim explains."""
    try:
        return {"result": OPERATIONS[request["operation"]](request.get("argument"))}
    except SpecFault as fault:
        return {"fault": {"place": list(fault.place), "problem": str(fault), "infeasible": fault.infeasible}}
    except AutoslimError as error:
        return {"fault": {"place": [], "problem": str(error), "infeasible": isinstance(error, BudgetError)}}
    except Exception:  # noqa: BLE001 - the service logs the traceback and answers with its id
        return {"crash": traceback.format_exc()}


@dataclasses.dataclass
class _Fork:
    """The process that works on one request; `deadline` is on the monotonic clock."""

    request_id: int
    pid: int
    deadline: float
    answer: bytes = b""
    overdue: bool = False

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def reap(self) -> bytes:
        """The answer of a fork that has ended or is about to; what happened to the fork where it gave none."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if self.answer.endswith(b"\n"):
            return self.answer
        if self.overdue:
            return _line(self.request_id, {"overdue": True})
        how = f"was killed by signal {-status}" if status < 0 else f"ended with code {status}"
        return _line(self.request_id, {"crash": f"the process that made this plan {how} without an answer"})


class ForkServer:
    """Serves until `requests` ends, which ends the process and every fork: nobody is left to wait for an answer."""

    def __init__(self, requests: BinaryIO, responses: BinaryIO) -> None:
        self._requests, self._responses, self._incomplete_line = requests.fileno(), responses, b""
        self._forks: dict[int, _Fork] = {}
        """By the descriptor that the answer is read from."""
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._requests, selectors.EVENT_READ)
        # A fork reads this pipe to learn that this process has died: its other end is open here only.
        self._liveness_pipe = os.pipe()

    def serve(self) -> NoReturn:
        while True:
            for key, _ in self._selector.select(self._seconds_left()):
                if key.fd == self._requests:
                    self._read_requests()
                else:
                    self._read_answer(key.fd)
            for fork in self._forks.values():
                if not fork.overdue and time.monotonic() > fork.deadline:
                    fork.overdue = True
                    fork.kill()

    def _seconds_left(self) -> float | None:
        deadlines = [fork.deadline for fork in self._forks.values() if not fork.overdue]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _read_requests(self) -> None:
        chunk = os.read(self._requests, 2**16)
        if not chunk:
            for fork in self._forks.values():
                fork.kill()
            os._exit(0)
        *lines, self._incomplete_line = (self._incomplete_line + chunk).split(b"\n")
        for line in lines:
            self._start(json.loads(line))

    def _start(self, request: dict[str, Any]) -> None:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(self._liveness_pipe[1])
            _answer(request, write, self._liveness_pipe[0])
        os.close(write)
        fork = _Fork(request_id=request["id"], pid=pid, deadline=time.monotonic() + request["seconds"])
        self._forks[read] = fork
        self._selector.register(read, selectors.EVENT_READ)

    def _read_answer(self, descriptor: int) -> None:
        fork, chunk = self._forks[descriptor], os.read(descriptor, 2**16)
        fork.answer += chunk
        if len(fork.answer) > _MAX_ANSWER:
            fork.answer, chunk = b"", b""
            fork.kill()
        if not chunk:
            self._selector.unregister(descriptor)
            os.close(descriptor)
            del self._forks[descriptor]
            self._responses.write(fork.reap())
            self._responses.flush()


def _answer(request: dict[str, Any], write: int, alive: int) -> NoReturn:
    """The whole life of a fork."""
    try:
        threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()
        _limit_memory()
        with os.fdopen(write, "wb") as answers:
            answers.write(_line(request["id"], respond(request)))
    finally:
        # Without the parent's cleanup, which is the parent's to do.
        os._exit(0)


def _end_with_parent(alive: int) -> None:
    os.read(alive, 1)
    os._exit(1)


def _limit_memory() -> None:
    """Where the system tells how much is in use (Linux); elsewhere the limits of a plan's work have to do."""
    try:
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    wanted = used + _DRY_RUN_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _line(request_id: int, answer: dict[str, Any]) -> bytes:
    return json.dumps({"id": request_id, **answer}).encode() + b"\n"


def prepare() -> bytes:
    """Imports all that a plan needs, at the first use too, which a fork would otherwise repeat for every plan. The line that tells it."""
    torch.set_num_threads(1)
    dry_run({"spec": read_mapping(_WARM_UP).model_dump(mode="json"), "limits": _NO_LIMITS})
    # Objects that a collection does not touch stay in memory that all forks share.
    gc.freeze()
    return _line(READY_ID, respond({"operation": "capabilities"}))


def serve(ready: bytes, responses: BinaryIO) -> NoReturn:
    """Writes what `prepare` returned, and answers the requests that come to the standard input."""
    try:
        responses.write(ready)
        responses.flush()
    except BrokenPipeError:
        # Whoever started this process is gone. Without the usual exit, which would try to write again.
        os._exit(0)
    ForkServer(sys.stdin.buffer, responses).serve()


def take_stdout() -> BinaryIO:
    """The standard output, for responses alone: what a library prints must not be read as one, and goes to the standard error."""
    responses = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return responses


def main() -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The service stops this process.
    with take_stdout() as responses:
        serve(prepare(), responses)


if __name__ == "__main__":
    main()
