"""`map_ahead`: a function of each item, computed by threads ahead of who asks for the results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from autoslim.core import activity
from autoslim.core.cpus import usable_cpus

T = TypeVar("T")
R = TypeVar("R")

THREAD_NAME = "autoslim-ahead"


def map_ahead(
    function: Callable[[T], R], items: Iterable[T], *, threads: int | None = None, ahead: int | None = None
) -> Generator[R]:
    """The results in the order of the items, at most `ahead` of them before they are asked for, so that memory does not grow.

    By default all usable CPUs have a thread, and each thread has two items ahead. An iterator that is closed before its end leaves no
    thread behind, and waits for the items that are computed just then. Each result is a sign of life (`activity`).
    """
    threads = usable_cpus() if threads is None else threads
    ahead = 2 * threads if ahead is None else ahead
    pending: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix=THREAD_NAME)
    try:
        for item in items:
            # One more than `ahead`: no thread is idle while the caller works on a result.
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield _next_of(pending)
        while pending:
            yield _next_of(pending)
    finally:
        pool.shutdown(cancel_futures=True)


def _next_of(pending: deque[Future[R]]) -> R:
    result = pending.popleft().result()
    # Of whoever waits for it: batches of a loader, images that are prepared.
    activity.mark()
    return result
