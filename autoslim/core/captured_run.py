"""`run_captured`: a program whose output is kept, and which has ended when its own process has."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO


def run_captured(command: Sequence[str], *, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` with its output captured as text, but for the program's own children, which may outlive it.

    Raises:
        subprocess.TimeoutExpired: it has run for `timeout` seconds, and was ended.
    """
    # Not pipes: those end with the last process that has them, and a child that hangs in the kernel keeps what it has inherited.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        run = subprocess.run(command, stdout=out, stderr=errors, check=False, timeout=timeout)  # noqa: S603 - the caller's program
        return subprocess.CompletedProcess(command, run.returncode, _text(out), _text(errors))


def _text(file: IO[bytes]) -> str:
    # Without a seek: a child that is still there writes at the same position.
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")
