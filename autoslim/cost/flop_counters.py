"""FLOPs of a model, by two counters that are independent of plans.

fvcore has no handler for fused attention and only warns, so that its count of a DeiT-S is 8 % too low; here it has one. An operator that
fvcore does not price is accepted only when it is known to be element-wise, a reduction, or to move data; any other is an error.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autoslim.errors import UnsupportedModelError

COUNTERS_AGREE_WITHIN = 0.006
"""Relative difference of the two counters: torch's leaves out LayerNorm, which is at most 0.6 % of a ViT."""

with warnings.catch_warnings():
    # fvcore scripts a function while it is imported, which torch now deprecates.
    warnings.simplefilter("ignore", FutureWarning)
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import get_shape

_FREE_OPERATORS = """
    add add_ sub sub_ rsub mul mul_ div div_ neg pow square sqrt rsqrt exp log tanh sigmoid softmax log_softmax gelu gelu_ relu silu
    rand mean sum std var linalg_vector_norm max min amax argmax clamp abs sort argsort topk gather index_select index expand expand_as
    repeat masked_fill where eq ne gt ge lt le logical_and logical_not cumsum ones zeros ones_like zeros_like full full_like arange
    stack floor_divide feature_dropout dropout bitwise_not scalar_tensor narrow unflatten type_as lift_fresh rms_norm
    max_pool2d roll clamp_min pad constant_pad_nd ceil reshape_as sin cos repeat_interleave
"""
_FREE = frozenset(_FREE_OPERATORS.split())


def count_flops(model: nn.Module, image_size: int | tuple[int, int], image_13HW: torch.Tensor | None = None) -> int:
    """Multiply-accumulates per image, counted by fvcore; the same with timm's fused attention on or off.

    The image matters only where the model computes more for one than for another; the default is a blank one.

    Raises:
        UnsupportedModelError: when the model runs an operator that cannot be priced.
    """
    with _evaluating(model), warnings.catch_warnings():
        # fvcore traces with torch.jit, which is deprecated, and tracing warns of every shape that is compared.
        warnings.simplefilter("ignore")
        analysis = FlopCountAnalysis(model, _blank_image(model, image_size) if image_13HW is None else image_13HW)
        analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_flops)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        total = int(analysis.total())
        unpriced = sorted(op for op in analysis.unsupported_ops() if op.removeprefix("aten::") not in _FREE)
    if unpriced:
        raise UnsupportedModelError(f"FLOPs cannot be counted: no price is known for {', '.join(unpriced)}")
    return total


def count_flops_torch(model: nn.Module, image_size: int | tuple[int, int]) -> int:
    """Multiply-accumulates per image by torch's own counter, a second opinion: matrix products only, without norms.

    The mathematical attention kernel is forced because the counter prices the fused one at zero on a CPU.
    """
    with _evaluating(model), _frozen(model), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(_blank_image(model, image_size))
    # torch counts a multiply-accumulate as two operations.
    return int(counter.get_total_flops()) // 2


def _attention_flops(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    query, key, value = (get_shape(inputs[i]) for i in range(3))
    batch_heads = 1
    for extent in query[:-2]:
        batch_heads *= extent
    scores = batch_heads * query[-2] * key[-2]
    # Per score, QK^T multiplies a key's width and AV a value's.
    return Counter({"scaled_dot_product_attention": scores * (query[-1] + value[-1])})


@contextlib.contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Inside the context no parameter requires a gradient: torch's counter cannot follow one that is the input of a module."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _blank_image(model: nn.Module, image_size: int | tuple[int, int]) -> torch.Tensor:
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    weight = next(p for p in model.parameters() if p.is_floating_point())
    return torch.zeros(1, 3, height, width, device=weight.device, dtype=weight.dtype)


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
