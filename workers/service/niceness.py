"""The priority of drivers on a machine that they share with the service."""

from __future__ import annotations

import errno
import logging
import os
import time
from pathlib import Path

_log = logging.getLogger(__name__)

_LEAST = 19
# The system takes one change of a group in a tenth of a second from all users together, except from root.
_TRIES, _PAUSE = 20, 0.1


def give_way(leader: int, niceness: int) -> None:
    """Adds to the niceness of the processes of the group that `leader` leads, which what they start inherits, and of its session.

    Linux may schedule each session as a group (autogroup, sched(7)). Niceness then counts within a session alone, and two
    trials leave another session, such as the API's, no more than half of the CPUs.
    """
    os.setpriority(os.PRIO_PGRP, leader, min(_LEAST, os.getpriority(os.PRIO_PROCESS, 0) + niceness))
    group, own = Path(f"/proc/{leader}/autogroup"), Path("/proc/self/autogroup")
    for left in reversed(range(_TRIES)):
        try:
            # "/autogroup-25 nice 0"
            before = int(own.read_text().split()[-1])
            group.write_text(str(min(_LEAST, before + niceness)))
            return
        except (FileNotFoundError, IndexError):
            # Another system, or one that groups by containers instead.
            return
        except OSError as error:
            if error.errno != errno.EAGAIN or not left:
                _log.warning("the priority of the session of process %d stays as it is: %s", leader, error.strerror)
                return
            time.sleep(_PAUSE)
