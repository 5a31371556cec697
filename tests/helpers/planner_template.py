"""A process that has imported all that a plan needs: whoever connects to it gets a planner, which is a fork of it.

`planner_stand_in` starts it in the folder of a run of the tests. Its socket there takes three descriptors and a working directory; it
answers with the planner's process id and, when the planner has ended, its exit code. A planner whose connection ends is killed. The process
ends when no process of pytest holds its lock on the folder any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import selectors
import signal
import socket
from pathlib import Path
from typing import NoReturn, TextIO

from helpers.planner_stand_in import ADDRESS, IN_USE

from autoslim.service.dry_run import planner_process

_LOOK_SECONDS = 1.0


class Template:
    def __init__(self, listener: socket.socket, ready: bytes) -> None:
        self._listener, self._ready = listener, ready
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._start)
        self._planners: set[int] = set()

    def serve(self, in_use: TextIO) -> None:
        while True:
            events = self._selector.select(_LOOK_SECONDS)
            # One at a time: it may be the end of what the next one is about.
            for key, _ in events[:1]:
                key.data()
            if not events and not _is_locked(in_use):
                break
        for pid in self._planners:
            os.kill(pid, signal.SIGKILL)

    def _start(self) -> None:
        control, _ = self._listener.accept()
        folder, descriptors, _, _ = socket.recv_fds(control, 2**12, 3)
        if not descriptors:
            # Whoever asked was killed before it could send them.
            control.close()
            return
        pid = os.fork()
        if pid == 0:
            for key in [*self._selector.get_map().values()]:
                os.close(key.fd)
            control.close()
            _become_planner(folder, descriptors, self._ready)
        for descriptor in descriptors:
            os.close(descriptor)
        self._planners.add(pid)
        ended = os.pidfd_open(pid)
        self._selector.register(control, selectors.EVENT_READ, functools.partial(self._kill, pid, control))
        self._selector.register(ended, selectors.EVENT_READ, functools.partial(self._reap, pid, ended, control))
        _tell(control, pid)

    def _kill(self, pid: int, control: socket.socket) -> None:
        self._selector.unregister(control)
        os.kill(pid, signal.SIGKILL)

    def _reap(self, pid: int, ended: int, control: socket.socket) -> None:
        self._selector.unregister(ended)
        os.close(ended)
        if control in self._selector.get_map():
            self._selector.unregister(control)
        self._planners.remove(pid)
        _tell(control, abs(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
        control.close()


def _tell(control: socket.socket, number: int) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        control.send(str(number).encode())


def _become_planner(folder: bytes, descriptors: list[int], ready: bytes) -> NoReturn:
    """What it raises ends the fork as it would end a planner: with a traceback on the standard error that was given, and exit code 1."""
    os.chdir(folder)
    for standard, given in enumerate(descriptors):
        os.dup2(given, standard)
        os.close(given)
    planner_process.serve(ready, planner_process.take_stdout())


def _is_locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open("template.lock", "w") as only, open(IN_USE, "w") as in_use:
        if _is_locked(only):
            # Another one runs, or is being started.
            return
        ready = planner_process.prepare()
        Path(ADDRESS).unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(ADDRESS)
            listener.listen()
            Template(listener, ready).serve(in_use)


if __name__ == "__main__":
    main()
