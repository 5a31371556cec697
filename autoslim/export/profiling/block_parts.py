"""The parts of a block, each on its own, as a slimmed model runs them: what a latency table is measured on.

A part is measured as a stack of several copies with weights of their own. One copy run repeatedly would find its weights in the cache,
which no model does.

Shapes: B batch, N tokens (prefix included), K tokens that are computed, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.core.shape import ViTShape
from autoslim.methods import METHODS
from autoslim.methods.base import ModuleFactory
from autoslim.methods.layers.narrow import empty_attention, empty_mlp
from autoslim.methods.layers.rectangular_block import rectangular_attention
from autoslim.methods.layers.token_selector import FixedTokens
from autoslim.models.placed_tokens import gather_tokens
from autoslim.models.positional import attention_of

Part = Callable[[Tensor], Tensor]
"""Takes tokens (B, N, D); its result is ignored."""


def attention(block: Any, heads: int, head_width: int) -> Part:
    """Norm, attention of these widths and residual sum of `block`."""
    part = _with_heads(block, heads, head_width)

    def run(x_BND: Tensor) -> Tensor:
        # Without drop path, which is the identity in a finished model.
        # Which places the tokens have makes no difference to the latency.
        out_BND: Tensor = x_BND + part.ls1(attention_of(part, part.norm1(x_BND), x_BND.shape[1]))
        return out_BND

    return run


def some_rows(block: Any, heads: int, head_width: int, index_K: Tensor) -> Part:
    """Norm, attention of these widths and residual sum of the tokens `index_K`, over all that enter."""
    part = _with_heads(block, heads, head_width)

    def run(x_BND: Tensor) -> Tensor:
        normed_BND = part.norm1(x_BND)
        attended_BKD = rectangular_attention(part.attn, normed_BND, index_K, places=x_BND.shape[1])
        out_BKD: Tensor = gather_tokens(x_BND, index_K) + part.ls1(attended_BKD)
        return out_BKD

    return run


def _with_heads(block: Any, heads: int, head_width: int) -> Any:
    part = copy.deepcopy(block)
    if (heads, head_width) != (part.attn.num_heads, part.attn.head_dim):
        # Untrained: the values of weights do not change the latency.
        part.attn = empty_attention(part.attn, head_width, heads=range(heads))
    return part


def mlp(block: Any, hidden: int) -> Part:
    """Norm, MLP with `hidden` units and residual sum of `block`."""
    part = copy.deepcopy(block)
    if hidden != part.mlp.fc2.in_features:
        part.mlp = empty_mlp(part.mlp, hidden)

    def run(x_BND: Tensor) -> Tensor:
        out_BND: Tensor = x_BND + part.ls2(part.mlp(part.norm2(x_BND)))
        return out_BND

    return run


def drop(left: int) -> nn.Module:
    """Dropping all but `left` tokens by index."""
    return FixedTokens(torch.arange(left))


def ends(module: Any) -> nn.Module:
    """The model without its blocks: embedding, final norm, pooling and classifier."""
    bare: nn.Module = copy.deepcopy(module)
    bare.blocks = nn.Identity()
    return bare


def extra_modules() -> dict[str, ModuleFactory]:
    """The modules that the registered methods add to a model, by their name in the plan."""
    return {name: factory for method in METHODS.values() for name, factory in method.priced_modules().items()}


def token_axis(shape: ViTShape, steps: int) -> tuple[int, ...]:
    """Numbers of tokens from the prefix alone to all, evenly spaced."""
    least = max(1, shape.prefix_tokens)
    return _distinct(least + round((shape.tokens - least) * step / steps) for step in range(steps + 1))


def attention_axis(shape: ViTShape, steps: int) -> tuple[tuple[int, int], ...]:
    """Heads and head widths from one unit to all, evenly spaced; heads whose dimensions are tied keep their width."""
    if shape.blocks[0].tied_dims:
        counts = _distinct([1, *(max(1, round(shape.heads * step / steps)) for step in range(1, steps + 1))])
        return tuple((heads, shape.head_width) for heads in counts)
    return tuple((shape.heads, width) for width in width_axis(shape.head_width, steps))


def width_axis(full: int, steps: int) -> tuple[int, ...]:
    """Widths from one unit to all, evenly spaced and rounded to multiples of 8, which widths usually are."""
    return _distinct([1, *(_rounded(full * step / steps, full) for step in range(1, steps + 1))])


def _rounded(width: float, full: int) -> int:
    # A full width of 8 or less has no multiple of 8 below it.
    return full if width >= full else max(8, round(width / 8) * 8) if full > 8 else max(1, round(width))


def _distinct(values: Iterator[int] | list[int]) -> tuple[int, ...]:
    return tuple(sorted(set(values)))
