"""A GPU that is not there, to see what it would be waited for: torch's fake tensors, with a place and a shape and without values.

Tensors of the CPU among them are an error, as they are on a GPU, and so is every shape that depends on values.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_GPU = torch.device("cuda", 0)
_COPIES = ("_to_copy", "copy_")


class Copies(TorchDispatchMode):
    """The operators that have `found` tensors on both sides: each copies between the GPU and the memory."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        # A number reaches a kernel as it is, even as a tensor without dimensions, unless it is copied.
        if len({tensor.device.type for tensor in tensors if tensor.ndim or name in _COPIES}) > 1:
            self.found.add(name)
        return out


@contextlib.contextmanager
def pretended_gpu() -> Iterator[Copies]:
    """Inside, `on_gpu` tensors and modules are computed with."""
    with FakeTensorMode(), Copies() as copies:
        yield copies


def on_gpu(tensor: Tensor) -> Tensor:
    """A tensor of the same shape and type."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=_GPU)


def move(module: nn.Module) -> nn.Module:
    """Moves parameters and buffers, in place. Attention is not the fused one, whose kernel is chosen by the GPU that there is."""
    # What several modules share they share afterwards, too.
    moved: dict[int, Tensor] = {}
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = moved.setdefault(id(tensor), _like(tensor))
        if getattr(part, "fused_attn", False):
            part.fused_attn = False
    return module


def _like(tensor: Tensor) -> Tensor:
    return nn.Parameter(on_gpu(tensor), tensor.requires_grad) if isinstance(tensor, nn.Parameter) else on_gpu(tensor)
