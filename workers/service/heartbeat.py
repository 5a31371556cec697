"""`Heartbeat`: a file whose time of change says when a supervisor last was at work, for a probe that restarts one that hangs."""

from __future__ import annotations

import logging
from pathlib import Path

from autoslim.errors import OutputError

_log = logging.getLogger(__name__)


class Heartbeat:
    """Without a file it does nothing. The file stays empty: changing its time needs no room on a full disk."""

    def __init__(self, file: Path | None = None) -> None:
        """Removes what an earlier process has left, which would pass for this one's.

        Raises:
            OutputError: where the file cannot be written, or is anything but a heartbeat.
        """
        self._file, self._failed = file, False
        if file is None:
            return
        try:
            file.touch()
            if not file.is_file() or file.stat().st_size:
                raise OutputError(
                    f"--heartbeat {file} is there and is no empty file; allowed: a file of its own, which is removed at the start"
                )
            file.unlink()
        except OSError as error:
            raise OutputError(
                f"--heartbeat {file} cannot be written ({error}); allowed: a file in a folder of this user's"
            ) from error

    def beat(self) -> None:
        """A failure is logged once: the probe, and not an error, ends a supervisor whose file cannot be written any more."""
        if self._file is None:
            return
        try:
            self._file.touch()
            self._failed = False
        except OSError as error:
            if not self._failed:
                _log.warning("the heartbeat %s cannot be written: %s", self._file, error)
            self._failed = True
