"""`StallNote`: why the process of a trial, or of another task of a search, has ended itself, and where it hung, for driver and people.

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
    """In the output, or in its store: why the last try of a trial, or of another task, has ended itself.

    There is one note for all tries, and it does not say whose it is: a try that is lost before it begins leaves that of an earlier one,
    unless who starts it has deleted it. What a driver has read already is not stored over a restart of the driver. A process that cannot
    write any more leaves no note.
    """

    def __init__(self, folder: Path, output: Path, mirror: Mirror) -> None:
        """`folder` is the note's own, somewhere in the folder `output`."""
        self._folder, self._output, self._mirror = folder, output, mirror

    @classmethod
    def of_trial(cls, trial: Path, mirror: Mirror) -> StallNote:
        """In the trial's folder (`RunFolder.trial`)."""
        return cls(trial / _FOLDER, trial.parent.parent, mirror)

    @classmethod
    def of_dense_model(cls, model: Path, mirror: Mirror) -> StallNote:
        """Beside the model's folder (`RunFolder.base`), which is not there before the model is finished."""
        return cls(model.with_name(f"{model.name}.{_FOLDER}"), model.parent.parent, mirror)

    @classmethod
    def of_task(cls, place: Path, mirror: Mirror) -> StallNote:
        """Beside `place` in the output's cache, which names a task that has no folder of its own."""
        return cls(place.with_name(f"{place.name}.{_FOLDER}"), place.parent.parent, mirror)

    def write(self, reason: str, *, stacks: str | None = None) -> None:
        """The reason, which process it is and when, and below that the stacks of its threads, or those that a child process has left.

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
            if stacks is None:
                faulthandler.dump_traceback(file=file, all_threads=True)
            else:
                file.write(stacks)
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
            _log.warning("whether a process has hung cannot be read: %s", error)
            return None
        folder = self._folder.relative_to(self._output).as_posix()
        place = f"{folder}/{_FILE}" if self._mirror.uri is None else f"{folder}.tar"
        reason = note.partition("\n")[0].strip()
        return Stall(f"{reason}; the stacks of its threads are in {place} of the output", note)

    def delete(self) -> None:
        """Another try begins. Raises StorageError, UnavailableError where it cannot be deleted."""
        self._mirror.delete(self._folder)
