"""Files and folders that are their owner's alone: those of a service, which serves users who have no account on its machine."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def write_privately() -> None:
    """What this process and its children create from now on has no rights for group and others."""
    os.umask(0o077)


def make_private(folder: Path) -> None:
    """Takes the rights of group and others, where the folder is this user's. A volume that an orchestrator mounts is not."""
    found = folder.stat()
    # A folder with the sticky bit is everybody's, such as /tmp, and others need it.
    if found.st_uid == os.geteuid() and found.st_mode & 0o077 and not found.st_mode & stat.S_ISVTX:
        folder.chmod(0o700)
