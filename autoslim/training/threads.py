"""How many threads torch computes with outside of a search, whose trials have one for each CPU that they reserve."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import torch

from autoslim.core.cpus import idle_cpus, usable_cpus


def default_threads() -> int:
    """The CPUs that are idle, measured now: with more threads than idle CPUs, each step waits for the thread that comes last.

    A number that the user gives torch itself (OMP_NUM_THREADS) holds.
    """
    return torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else idle_cpus()


def describe_threads(threads: int, doing: str = "training", setting: str = "--threads") -> str:
    """A line where `default_threads` left CPUs to other processes; else empty. `setting` is what the user can give instead."""
    usable = usable_cpus()
    if threads >= usable or "OMP_NUM_THREADS" in os.environ:
        return ""
    return f"the machine is busy: {doing} on the {threads} of {usable} CPUs that others leave idle; {setting} sets another number"


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Within it torch computes with so many threads; a caller's own number is set again behind it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def idle_threads(tell: Callable[[str], None]) -> Iterator[None]:
    """Within it torch computes with `default_threads`; `tell` is given a line where these are not all CPUs."""
    threads = default_threads()
    if busy := describe_threads(threads, "computing", "OMP_NUM_THREADS"):
        tell(busy)
    with torch_threads(threads):
        yield
