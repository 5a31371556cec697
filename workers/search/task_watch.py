"""`TaskWatch`: a task that hangs ends its process, so that Ray does it again in another one, and the driver can say why it failed.

For tasks that have no checkpoint: evaluations and measurements. Trials and the adaptation of dense models have their own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.exceptions import NodeDiedError

from autoslim.core.job import SearchJob
from autoslim.core.logs import log_json
from autoslim.core.run_folder import RunFolder
from autoslim.core.stall_watch import StallWatch, end_process
from autoslim.errors import JobError, StalledError
from autoslim.storage.mirror import Mirror
from workers.ray_errors import is_cluster_failure, unwrapped_task_errors
from workers.search.named_disks import named_full_disks
from workers.search.stall_note import StallNote


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskWatch:
    """Of one task, which gets it from the driver. `what` is what the task does, `seconds` how long without a sign of life; 0 is no limit.

    `output` is where the output lies (`Mirror.address`), and `place` the name of the task's `StallNote` in it (`Mirror.name`).
    """

    what: str
    output: str
    place: str
    seconds: float

    @classmethod
    def of(cls, what: str, job: SearchJob, output: RunFolder, mirror: Mirror) -> TaskWatch:
        place = output.cache / re.sub(r"[^\w.%]+", "-", what)
        return cls(what=what, output=mirror.address, place=mirror.name(place), seconds=60 * job.stall_minutes)

    @contextlib.contextmanager
    def watching(self) -> Iterator[StallWatch]:
        """In the task, which works inside `working` of what this gives. While a child process works that is watched, or has a limit of its
        own, the task only waits; a StalledError of that child ends this process, too.

        Raises:
            StorageError, UnavailableError: the note of an earlier try cannot be deleted.
            DiskFullError: for an error of the block that says that a disk is full.
        """
        log_json()
        note = self._note
        stalls = StallWatch(self.seconds, end=functools.partial(end_process, leave=note.write)).start()
        try:
            with stalls.working():
                self.forget()
            with self._named_full_disks():
                yield stalls
        except StalledError as error:
            end_process(str(error), leave=functools.partial(note.write, stacks=error.stacks))
        finally:
            stalls.stop()

    def forget(self) -> None:
        """Deletes the note of an earlier try, or of an earlier task in this place: by the driver before it submits the task, too, since a
        task that is lost before it begins deletes none.

        Raises:
            StorageError, UnavailableError: it cannot be deleted.
        """
        self._note.delete()

    @property
    def stall(self) -> str | None:
        """Why the process of the last try has ended itself, in words; None where it has not."""
        found = self._note.read()
        return None if found is None else f"{self.what}: {found.sentence}"

    def _named_full_disks(self) -> contextlib.AbstractContextManager[None]:
        mirror = Mirror.of(self.output)
        return named_full_disks(mirror.path(self.place).parent.parent, mirror)

    @property
    def _note(self) -> StallNote:
        mirror = Mirror.of(self.output)
        return StallNote.of_task(mirror.path(self.place), mirror)


@contextlib.contextmanager
def unwrapped_errors(failure: str, watch: TaskWatch) -> Iterator[None]:
    """As `unwrapped_task_errors`, around the `ray.get` of the task with this watch alone: another task's note
    may be of a try that is being repeated.

    Raises:
        AutoslimError, JobError: as there; where its last try hung, a JobError that says so.
    """
    try:
        with unwrapped_task_errors(failure):
            yield
    except JobError as error:
        lost = error.__cause__ is not None and is_cluster_failure(error.__cause__)
        stall = watch.stall if lost else None
        if stall is None:
            raise
        # Without its cause: nothing of the cluster was lost.
        raise JobError(f"{failure}: {stall}") from None


@dataclasses.dataclass(frozen=True)
class WatchedTask:
    """A task that `submit` has begun, and begins once more where its last try was lost with its node: that says nothing of its work."""

    submit: Callable[[], ray.ObjectRef]
    watch: TaskWatch
    begun: ray.ObjectRef

    @classmethod
    def begin(cls, submit: Callable[[], ray.ObjectRef], watch: TaskWatch) -> WatchedTask:
        """Raises StorageError, UnavailableError where the note of an earlier task in this place cannot be deleted."""
        watch.forget()
        return cls(submit, watch, submit())

    def result(self, failure: str) -> Any:
        """What the task returns. `failure` begins the error's message.

        Raises:
            AutoslimError, JobError: as `unwrapped_errors`.
        """
        begun = self.begun
        while True:
            try:
                with unwrapped_errors(failure, self.watch):
                    return ray.get(begun)
            except JobError as error:
                # Ray says so of a task where its node gives no answer any more.
                if not isinstance(error.__cause__, NodeDiedError):
                    raise
            begun = self.begin(self.submit, self.watch).begun
