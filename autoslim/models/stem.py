"""The price of an embedding that is more than one projection of the patches, counted once."""

from __future__ import annotations

import contextlib
import contextvars
import copy
import weakref
from collections.abc import Iterator

from torch import nn

from autoslim.core.shape import Price
from autoslim.cost.flop_counters import count_flops, count_flops_torch

_KNOWN: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[int, int], Price]] = weakref.WeakKeyDictionary()
"""Prices by module and image size: the shape of one model is read many times."""

_LEFT_OUT: contextvars.ContextVar[bool] = contextvars.ContextVar("stems without a price", default=False)


@contextlib.contextmanager
def without_prices() -> Iterator[None]:
    """Inside the context stems cost nothing: to read what a model is made of, when its cost is not asked for."""
    token = _LEFT_OUT.set(True)
    try:
        yield
    finally:
        _LEFT_OUT.reset(token)


def price_of(module: nn.Module, image_size: tuple[int, int]) -> Price:
    """What `module` costs for one image of (height, width) pixels, as fvcore counts it.

    Raises:
        UnsupportedModelError: when it runs an operator that cannot be priced.
    """
    if _LEFT_OUT.get():
        return Price(matmuls=0)
    known = _KNOWN.get(module)
    if known is None or known[0] != image_size:
        known = _KNOWN[module] = (image_size, _counted(module, image_size))
    return known[1]


def _counted(module: nn.Module, image_size: tuple[int, int]) -> Price:
    if any(parameter.is_meta for parameter in module.parameters()):
        # fvcore traces, which modules without storage cannot. What the weights are does not matter.
        module = copy.deepcopy(module).to_empty(device="cpu")
    total, matmuls = count_flops(module, image_size), count_flops_torch(module, image_size)
    # torch's counter leaves out norms; otherwise the two agree.
    return Price(matmuls=matmuls, norms=total - matmuls)
