"""`StallNote`: why a trial's process has ended itself, and where it hung, for the driver and for people.

Ray tells of a worker that has ended neither its exit code nor its last words, and its log may go with the node.
"""

from __future__ import annotations

import dataclasses
import datetime
import faulthandler
import logging
import os
from pathlib import Path

from autoslim.errors import StorageError, UnavailableError
from autoslim.storage.mirror import Mirror

_FOLDER, _FILE = "stalled", "stacks.txt"

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Stall:
    """`sentence` is the reason, and where the stacks are; `note` all that was left, which two processes never leave alike."""

    sentence: str
    note: str


class StallNote:
    """In the folder of a trial, or in the store of its output: the note of the trial's last try, if that one has hung. A try that is lost
    before it begins leaves the note of an earlier one."""

    def __init__(self, trial: Path, mirror: Mirror) -> None:
        self._folder, self._mirror = trial / _FOLDER, mirror

    def write(self, reason: str) -> None:
        """The reason, which process it is and when, and below that the stacks of its threads.

        Raises:
            OSError, StorageError, UnavailableError: where it cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / _FILE).open("w") as file:
            print(
                reason,
                f"process {os.getpid()}, {datetime.datetime.now(datetime.UTC).isoformat()}",
                sep="\n",
                file=file,
                flush=True,
            )
            faulthandler.dump_traceback(file=file, all_threads=True)
        self._mirror.keep(self._folder)

    def read(self) -> Stall | None:
        """None where there is no note, or where it cannot be read, which the log says."""
        try:
            self._mirror.refresh(self._folder)
            file = self._folder / _FILE
            if not file.is_file():
                return None
            note = file.read_text(errors="replace")
        except (OSError, StorageError, UnavailableError) as error:
            _log.warning("whether a trial's process has hung cannot be read: %s", error)
            return None
        trial = self._folder.parent
        place = f"{_FOLDER}/{_FILE}" if self._mirror.uri is None else f"{_FOLDER}.tar"
        reason = note.partition("\n")[0].strip()
        return Stall(f"{reason}; the stacks of its threads are in {trial.parent.name}/{trial.name}/{place} of the output", note)

    def delete(self) -> None:
        """Another try begins. Raises StorageError, UnavailableError where it cannot be deleted."""
        self._mirror.delete(self._folder)
