"""`Unallocated`: models are made of tensors that have a shape and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._device import DeviceContext


class Unallocated(DeviceContext):
    """`torch.device("meta")`, which also leaves out what fills tensors with values: timm's initialization takes most of the time.

    One mode and not two, because building a model asks it some thousand times.
    """

    def __init__(self) -> None:
        super().__init__("meta")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _FILLS:
            # torch's initializers hand their tensor on by name.
            filled = args[0] if args else kwargs["tensor"]
            if filled.is_meta:
                return filled
        return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]


_METHODS = ("uniform_", "normal_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_", "div_")

_FILLS = frozenset(
    (
        *(getattr(torch.Tensor, name) for name in _METHODS),
        *(
            found
            for name, found in vars(nn.init).items()
            if name.endswith("_") and getattr(found, "__module__", "") == nn.init.__name__
        ),
    )
)
