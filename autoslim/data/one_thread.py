"""`compute_alone`: one thread of Python's computes with PyTorch without the threads of PyTorch's own."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch


def compute_alone() -> None:
    """From now on PyTorch's operators compute in the calling thread alone. In all other threads they have as many as before, also in those
    that are started later, whose number `torch.set_num_threads` would change, too.

    For threads that prepare batches side by side, one for each CPU: with threads of their own they would wait for each other.
    """
    # Asked first: PyTorch sets a new thread's number when it is first asked for it.
    if torch.get_num_threads() > 1 and _set_threads() is not None:
        _set_threads()(1)


@functools.cache
def _set_threads() -> Any:
    """OpenMP's function, of the library that PyTorch was linked with; None where PyTorch has threads of another kind."""
    return getattr(ctypes.CDLL(torch._C.__file__), "omp_set_num_threads", None)
