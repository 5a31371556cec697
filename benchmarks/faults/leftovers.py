"""What an earlier call on the same folder has left that was killed: processes, folders and network namespaces.

Left alone, they would go on: a supervisor keeps the lock of its service, and a search takes time from what is measured.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock
import psutil

MARK = "AUTOSLIM_FAULTS_FOLDER"
"""In the environment of this process and of all that it starts."""
NAMESPACE = "asf"
"""How the names of network namespaces begin; the number of their process follows."""
_PLACES = tuple(dict.fromkeys(("/tmp", "/var/tmp", tempfile.gettempdir())))


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """The only call on `folder`, once what an earlier one has left is gone. SIGTERM ends the block as Ctrl-C does."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = filelock.FileLock(folder / ".lock").acquire(timeout=0)
    except filelock.Timeout:
        sys.exit(f"another call works in {folder}; wait for its end, or give another --folder")
    os.environ[MARK] = str(folder.absolute())
    with lock:
        remove_left()
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def prefix() -> str:
    """How the names of all folders begin that the call makes elsewhere. Short, since Ray creates sockets in them."""
    return f"asf-{hashlib.blake2b(os.environ.get(MARK, '').encode(), digest_size=4).hexdigest()}-"


def remove_left() -> None:
    """Ends every other process with this call's mark, and removes folders and namespaces that nobody uses any more."""
    left = [process for process in psutil.process_iter() if process.pid != os.getpid() and _mark(process) == os.environ[MARK]]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=30)
    for place in _PLACES:
        for path in Path(place).glob(f"{prefix()}*"):
            shutil.rmtree(path, ignore_errors=True)
    for path in Path("/run/netns").glob(f"{NAMESPACE}*"):
        number = path.name.removeprefix(NAMESPACE)
        if number.isdigit() and not psutil.pid_exists(int(number)):
            subprocess.run(["ip", "netns", "delete", path.name], capture_output=True)


def _mark(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK)
    except psutil.Error:
        # Of another user, or gone.
        return None
