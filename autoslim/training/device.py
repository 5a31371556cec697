"""The device that a model runs on, and the precision that it computes in."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator

import torch
from torch import nn

from autoslim.core.recipe import PRECISIONS
from autoslim.errors import RequestError

_TENSOR_CORES = (7, 0)
"""Compute capability from which a GPU has units for products in float16 (Volta)."""
_TF32 = (8, 0)
"""The same for TF32 (Ampere), which has bfloat16, too."""


class Precision(enum.StrEnum):
    """What matrix products, convolutions and attention compute in. Weights, gradients and losses are in float32 always."""

    FLOAT32 = "float32"
    TF32 = "tf32"
    """float32 whose products have ten bits of fraction."""
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """What autocast converts to; None without autocast."""
        return {Precision.BFLOAT16: torch.bfloat16, Precision.FLOAT16: torch.float16}.get(self)


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_precision(name: str, device: torch.device) -> Precision:
    """The precision of a recipe's `name`: for `auto` the fastest that the device has instructions for, since emulation is slower than
    float32. TF32 is float32 where the device has none.

    Raises:
        RequestError: for another name.
    """
    if name not in PRECISIONS.values():
        raise RequestError(f"precision is {name!r}; allowed: {', '.join(PRECISIONS.values())}")
    if name == Precision.TF32:
        return Precision.TF32 if _has(device, _TF32) else Precision.FLOAT32
    if name != "auto":
        return Precision(name)
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision.BFLOAT16
        return Precision.FLOAT16 if _has(device, _TENSOR_CORES) else Precision.FLOAT32
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return Precision.BFLOAT16 if fast else Precision.FLOAT32


def _has(device: torch.device, capability: tuple[int, int]) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= capability


@contextlib.contextmanager
def autocast(*models: nn.Module, device: torch.device, precision: Precision) -> Iterator[None]:
    """Autocast of `models`, with their attention as `plain_attention` has it."""
    dtype = precision.autocast_dtype
    with (
        plain_attention(*models, device=device, precision=precision),
        fast_products(device, precision),
        torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None),
    ):
        yield


@contextlib.contextmanager
def plain_attention(*models: nn.Module, device: torch.device, precision: Precision) -> Iterator[None]:
    """On a CPU in half precision timm's unfused attention, which trains twice as fast there as the fused kernel."""
    plain = device.type == "cpu" and precision.autocast_dtype is not None
    switched = [m for model in models for m in model.modules() if plain and getattr(m, "fused_attn", False)]
    for module in switched:
        module.fused_attn = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in switched:
            module.fused_attn = True  # type: ignore[assignment]


def memory_format(model: nn.Module, device: torch.device) -> torch.memory_format:
    """Of the images in training: channels last on a GPU where a stem's convolutions overlap, since Tensor Cores read that order.

    A patch embedding, whose convolution does not overlap, is one matrix product in any order.
    """
    convolutions = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    overlap = any(size > step for found in convolutions for size, step in zip(found.kernel_size, found.stride, strict=True))
    return torch.channels_last if overlap and device.type == "cuda" else torch.preserve_format


@contextlib.contextmanager
def fast_products(device: torch.device, precision: Precision) -> Iterator[None]:
    """TF32 for the products that are left in float32: all of them in TF32, and in half precision those that autocast leaves out.

    A backward pass needs it around itself, as autocast does not.
    """
    if device.type == "cpu" or precision is Precision.FLOAT32:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
