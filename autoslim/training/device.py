"""The device that a model runs on, and its precision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from autoslim.errors import RequestError

PRECISIONS = ("auto", "bfloat16", "float32")


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16; `auto` does where the device has instructions for it, since emulation is slower than float32."""
    if precision not in PRECISIONS:
        raise RequestError(f"precision is {precision!r}; allowed: {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


@contextlib.contextmanager
def autocast(*models: nn.Module, device: torch.device, bfloat16: bool) -> Iterator[None]:
    """Autocast of `models` to bfloat16; on a CPU with timm's unfused attention, which trains twice as fast there as the fused kernel."""
    plain = device.type == "cpu" and bfloat16
    switched = [m for model in models for m in model.modules() if plain and getattr(m, "fused_attn", False)]
    for module in switched:
        module.fused_attn = False  # type: ignore[assignment]
    try:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16):
            yield
    finally:
        for module in switched:
            module.fused_attn = True  # type: ignore[assignment]
