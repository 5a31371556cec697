"""`LeadingRank`: the process of a trial that trains on several devices, with one further process (rank) for each further device.

The trial runs here, in rank 0, as on one device: it attaches, measures, prunes, evaluates and writes the checkpoints. For each phase of
training it sends the others the student, its loss and the optimizer's state (`rank_process`), and starts every segment on all ranks at
once. So a checkpoint knows nothing of ranks, and a trial resumes with any number of them.

The ranks are children of the trial's process, on its node: Ray's reservation of the trial covers them, and they end with it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from autoslim.core.child_process import start_child
from autoslim.core.stall_watch import end_process
from autoslim.errors import RankLostError
from autoslim.training.rank_group import RankGroup
from autoslim.training.rank_watch import RankWatch, how_ended

_MODULE = "autoslim.training.rank_process"
_START_SECONDS = 300.0
"""For a rank to import PyTorch and to open its models and images: a slow network file system takes minutes."""
_ANSWER_SECONDS = 300.0
"""For the slowest rank of a step, which rank 0 waits for. One that has ended is noticed at once, or by `RankWatch`."""
_PATIENCE_SECONDS = 7 * 86_400.0
"""For which the others wait for rank 0, however long it writes a checkpoint in the middle of a segment. They end with its process, which is
itself watched (`StallWatch`)."""
_END_SECONDS = 5.0
"""For a rank whose connection is gone to have ended, and its exit code to be known."""

Segments = Callable[[int, int], contextlib.AbstractContextManager[None]]
"""The context of a segment by its number and its steps."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankStart:
    """What a rank is started with. `store` is the file through which the ranks find each other; `threads` are PyTorch's in each, and
    `answer_seconds` is how long this one waits for the others in a step."""

    rank: int
    ranks: int
    base: Path
    dataset: Path
    teacher: Path | None
    store: Path
    threads: int
    cuda: bool
    answer_seconds: float

    def join(self) -> None:
        """Joins the ranks' process group, which all of them enter at the same time."""
        # The ranks are on one machine: nothing of theirs listens on another interface.
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, "lo")
        dist.init_process_group(
            "nccl" if self.cuda else "gloo",
            store=dist.FileStore(str(self.store), self.ranks),  # type: ignore[attr-defined]
            rank=self.rank,
            world_size=self.ranks,
            timeout=datetime.timedelta(seconds=self.answer_seconds),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunPhase:
    """To a rank: the phase that the next segments are of, as `phase.pack` makes it."""

    phase: bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSegment:
    """To a rank: train this segment along."""

    index: int
    steps: int


class LeadingRank(RankGroup):
    """Rank 0. The others are started with the first segment, run one trial after another, and end with `close`. `end` gets the reason, and
    ends this process, where it waits for a rank that has ended and no error tells it."""

    def __init__(
        self, ranks: int, *, base: Path, dataset: Path, teacher: Path | None, end: Callable[[str], object] = end_process
    ) -> None:
        super().__init__(0, ranks)
        self._base, self._dataset, self._teacher = base, dataset, teacher
        self._watch = RankWatch(lambda: [process for process, _ in self._others], end=end)
        self._scratch: Path | None = None
        self._others: list[tuple[subprocess.Popen[bytes], Connection]] = []

    def segments(self, phase: Callable[[], bytes]) -> Segments:
        """For one phase: the context in which this rank trains a segment while the others do. `phase` is packed at the first one."""
        sent = False

        @contextlib.contextmanager
        def segment(index: int, steps: int) -> Iterator[None]:
            nonlocal sent
            with self._all_or_none():
                own = None if self._others else self._start()
                with self._watch.looking():
                    if own is not None:
                        own.join()
                    if not sent:
                        self._send(RunPhase(phase=phase()))
                        sent = True
                    self._send(RunSegment(index=index, steps=steps))
                    yield

        return segment

    def alone(self) -> contextlib.AbstractContextManager[None]:
        return self._watch.paused()

    def close(self) -> None:
        """Ends the other ranks; the next segment would start new ones."""
        for process, connection in self._others:
            connection.close()
            process.kill()
        for process, _ in self._others:
            process.communicate()
        self._others = []
        if dist.is_initialized():
            dist.destroy_process_group()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def _start(self) -> RankStart:
        """Starts the other ranks, which wait for this one to join them; returns this one's."""
        self._scratch = Path(tempfile.mkdtemp(prefix="autoslim-ranks-"))
        starts = self._starts(self._scratch / "store")
        for _ in starts[1:]:
            self._others.append(start_child(_MODULE))
        for start, (_, connection) in zip(starts[1:], self._others, strict=True):
            _tell(connection, start)
        for rank, (_, connection) in enumerate(self._others, 1):
            # Before the ranks join: who joins waits for all others, and would wait for one that has ended.
            if not connection.poll(_START_SECONDS):
                raise RankLostError(f"rank {rank} of {self.share.ranks} has not started within {_START_SECONDS:.0f} s")
            self._receive(connection)
        return starts[0]

    def _starts(self, store: Path) -> list[RankStart]:
        return [
            RankStart(
                rank=rank,
                ranks=self.share.ranks,
                base=self._base,
                dataset=self._dataset,
                teacher=self._teacher,
                store=store,
                threads=torch.get_num_threads(),
                cuda=torch.cuda.is_available(),
                answer_seconds=_PATIENCE_SECONDS if rank else _ANSWER_SECONDS,
            )
            for rank in range(self.share.ranks)
        ]

    def _send(self, message: Any) -> None:
        for _, connection in self._others:
            _tell(connection, message)

    def _receive(self, connection: Connection) -> None:
        """Raises the error that a rank has sent; RankLostError where it has ended without one."""
        try:
            sent = connection.recv()
        except (EOFError, OSError) as error:
            raise RankLostError("a rank has ended") from error
        if sent is not None:
            raise sent

    @contextlib.contextmanager
    def _all_or_none(self) -> Iterator[None]:
        """After an error of any rank none is left, since the others may wait for it in the middle of a step."""
        try:
            yield
        except RankLostError as lost:
            try:
                self._raise_cause(lost)
            finally:
                self.close()
        except BaseException:
            self.close()
            raise

    def _raise_cause(self, lost: RankLostError) -> NoReturn:
        """Raises why a rank is lost: its own error, or how its process has ended."""
        ended = []
        for rank, (process, connection) in enumerate(self._others, 1):
            while connection.poll():
                try:
                    self._receive(connection)
                except RankLostError:
                    break
            with contextlib.suppress(subprocess.TimeoutExpired):
                ended.append((rank, process.wait(timeout=_END_SECONDS)))
        # A rank that ended because another one was lost has an exit code; one that was killed has a signal.
        for rank, code in sorted(ended, key=lambda pair: pair[1]):
            raise RankLostError(
                f"rank {rank} of {self.share.ranks} {how_ended(code)}; the trial is tried again from its last checkpoint. SIGKILL is what "
                "a machine without memory left sends: a smaller batch (--batch-size) needs less"
            ) from lost
        raise RankLostError(f"{lost}; the trial is tried again from its last checkpoint") from lost


def _tell(connection: Connection, message: Any) -> None:
    try:
        connection.send(message)
    except OSError as error:
        raise RankLostError("a rank takes no message") from error
