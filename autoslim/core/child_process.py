"""`start_child`: a process of one of our own modules, with a pipe to it, that does not outlive this one.

Not `multiprocessing`'s: its processes begin with a copy of this one's memory and threads, or import its main program again, which in a
trial is Ray's worker, and in a user's script everything that the script does.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from multiprocessing.connection import Connection


def start_child(module: str, *descriptors: int) -> tuple[subprocess.Popen[bytes], Connection]:
    """The process of `python -m MODULE CONNECTION DESCRIPTORS...`, whose arguments are the numbers of open descriptors, and our end of the
    pipe. Its standard input and the pipe close when this process ends, however it does.
    """
    own, theirs = multiprocessing.Pipe()
    with theirs:
        passed = (theirs.fileno(), *descriptors)
        process = subprocess.Popen(  # noqa: S603 - this Python, with a module of ours
            [sys.executable, "-P", "-m", module, *map(str, passed)],
            stdin=subprocess.PIPE,
            pass_fds=passed,
            # Ray adds folders to the path of its workers.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    return process, own
