"""`BoundReader`: a process bound to some cores that reads whole epochs when it is asked to, and tells how many a second.

It imports no PyTorch: its processes have what they read epochs with.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Self

Read = Callable[[], None]
"""Reads a whole epoch."""


@contextlib.contextmanager
def bound_to(cores: Sequence[int]) -> Iterator[None]:
    """What is started within runs on `cores` alone, with all its threads: a process that binds itself has threads by then."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class BoundReader:
    """A process on `cores`, which calls `open_reader` with what it is asked for and the number of its `cores`, and reads epochs with what
    that returns. It ends with the block, or with this process, however that ends.
    """

    def __init__(self, open_reader: Callable[..., Read], cores: Sequence[int]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        # Not a daemon, which may not have the worker processes of timm's loader.
        self._process = context.Process(target=serve, args=(functools.partial(open_reader, cores=len(cores)), theirs))
        # Ours closes with this process alone, since it is passed to none; theirs is closed here, so that its end is seen.
        with theirs, bound_to(cores):
            self._process.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()
        self._process.join()

    def start(self, what: tuple[str, ...], seconds: float) -> None:
        """Asks for whole epochs of `what` until `seconds` have passed, one at least."""
        with self._alive():
            self._connection.send((what, seconds))

    def speed(self) -> float:
        """Epochs a second of what was started.

        Raises:
            RuntimeError: with the traceback of the process, or that it has ended.
        """
        with self._alive():
            answer = self._connection.recv()
        if isinstance(answer, Exception):
            raise answer
        return float(answer)

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError) as error:
            self._process.join()
            raise RuntimeError(f"a process that reads epochs has ended with exit code {self._process.exitcode}") from error


def serve(open_reader: Callable[..., Read], connection: Connection) -> None:
    """The whole life of the process: until the other end of `connection` is closed."""
    # One at a time: a loader may have processes of its own.
    opened = functools.lru_cache(maxsize=1)(open_reader)
    try:
        while True:
            what, seconds = connection.recv()
            try:
                answer: float | Exception = _epochs_a_second(opened(*what), seconds)
            except Exception as error:  # noqa: BLE001 - the benchmark raises what it is sent
                answer = RuntimeError("in a process that reads epochs:\n" + "".join(traceback.format_exception(error)))
            connection.send(answer)
    except (EOFError, ConnectionError):
        # The benchmark has ended, or wants no more.
        return


def _epochs_a_second(read: Read, seconds: float) -> float:
    began, epochs = time.perf_counter(), 0
    while epochs == 0 or time.perf_counter() - began < seconds:
        read()
        epochs += 1
    return epochs / (time.perf_counter() - began)
