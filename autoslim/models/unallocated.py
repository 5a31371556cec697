"""Models of tensors that have a shape and nothing else: `unfilled` leaves out the work of filling them with values."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

_METHODS = ("uniform_", "normal_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_", "div_")

_PLACES = (
    *((torch.Tensor, name) for name in _METHODS),
    *(
        (nn.init, name)
        for name, found in vars(nn.init).items()
        if name.endswith("_") and getattr(found, "__module__", "") == nn.init.__name__
    ),
)
"""What fills tensors: the methods that timm's and torch's initializers are made of, and torch's initializers."""

_ONE_AT_A_TIME = threading.RLock()
"""Of two that overlap in threads, the second would put back what the first has put there."""


@contextlib.contextmanager
def unfilled() -> Iterator[None]:
    """Inside the context nothing fills tensors on the meta device, where `timm.create_model(..., device="meta")` makes all of a model's.

    All other tensors are filled as ever, in every thread. On the meta device many of torch's operators run through Python: to build 41 of
    timm's models, every eighth, takes 13 to 18 s of processor time without this. With it 82 take 4.4 s, their shapes read; in a mode of
    torch's functions, which sees every call, they take 6.7 s.
    """
    with _ONE_AT_A_TIME, contextlib.ExitStack() as stack:
        for owner, name in _PLACES:
            stack.enter_context(_replaced(owner, name))
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str) -> Iterator[None]:
    own, inherited = getattr(owner, name), name not in vars(owner)
    setattr(owner, name, _leaving_meta(own))
    try:
        yield
    finally:
        if inherited:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


def _leaving_meta(fill: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fill)
    def fill_unless_meta(*args: Any, **options: Any) -> Any:
        # Initializers may be given their tensor by name.
        tensor = args[0] if args else options["tensor"]
        return tensor if tensor.is_meta else fill(*args, **options)

    return fill_unless_meta
