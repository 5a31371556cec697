"""Stands for the program `autoslim.service.dry_run.planner_process`, which imports for thirteen seconds at each of its starts.

`python -S -E planner_stand_in.py FOLDER` hands its standard streams to a fork of `planner_template`, the one in this folder of a run of the
tests, which it starts where there is none. It ends as the fork does, and the fork ends with it. It needs the standard library alone.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ADDRESS = "template.sock"
"""In the folder, which is the working directory: the path of a socket is short."""
IN_USE = "in-use"
"""The file that a process of pytest holds a lock on while it may need a planner."""

_TEMPLATE = "import sys; sys.path.append({tests!r}); from helpers import planner_template; planner_template.main()"
_START_SECONDS = 280.0


def connect() -> socket.socket | None:
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        control.connect(ADDRESS)
    except (FileNotFoundError, ConnectionRefusedError):
        control.close()
        return None
    return control


def start() -> socket.socket:
    """Two templates that are started at once settle it between them: one ends."""
    code = _TEMPLATE.format(tests=str(Path(__file__).parents[1]))
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", code], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + _START_SECONDS
    while (control := connect()) is None:
        if process.poll() or time.monotonic() > deadline:
            sys.exit(f"the template of the planners could not be started; its exit code is {process.returncode}")
        time.sleep(0.05)
    return control


def main(folder: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    here = os.getcwd()
    os.chdir(folder)
    control = connect() or start()
    socket.send_fds(control, [here.encode()], [0, 1, 2])
    # For `planner_of`.
    Path(str(os.getpid())).write_bytes(control.recv(32))
    os._exit(int(control.recv(32) or b"1"))


if __name__ == "__main__":
    main(sys.argv[1])
