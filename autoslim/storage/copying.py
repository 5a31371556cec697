"""Copies of streams, and of many files at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from autoslim.core import activity

T = TypeVar("T")

STREAMS = 8
"""Files that are copied at once: of small ones, most of the time goes into waiting for a server."""

_PART = 8 * 2**20
"""Bytes; a part of a multipart upload to S3 has at least five million."""


def copy_stream(source: Any, target: Any) -> int:
    """Copies what is left of `source`, a binary file; returns how many bytes. Files may be larger than memory."""
    copied = 0
    while part := source.read(_PART):
        target.write(part)
        copied += len(part)
        # Also in one of the threads of `copy_each`, whose files are what its caller waits for.
        activity.mark()
    return copied


def copy_each(copy: Callable[[T], None], items: Iterable[T]) -> None:
    """Calls `copy` with each item, `STREAMS` at once. After an error no further one is begun, and it is raised."""
    left, lock, ended = iter(items), threading.Lock(), threading.Event()

    def work() -> None:
        while not ended.is_set():
            with lock:
                try:
                    item = next(left)
                except StopIteration:
                    return
            try:
                copy(item)
            except BaseException:
                ended.set()
                raise

    # Workers that take the next item: a queue with an entry for each of a million files would take a gigabyte.
    with ThreadPoolExecutor(STREAMS) as pool:
        workers = [pool.submit(work) for _ in range(STREAMS)]
        try:
            for worker in workers:
                worker.result()
        finally:
            # Also when this thread is interrupted, which the pool would wait for all files after.
            ended.set()
