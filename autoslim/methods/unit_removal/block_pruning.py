"""Prunes a block to the widths that a ranking has left, and builds the pruned structure for loading.

Shapes: H heads, K head width, F hidden units.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autoslim.core.plan import BlockPlan, Plan
from autoslim.core.shape import ViTShape
from autoslim.errors import UnsupportedModelError
from autoslim.methods.layers.inner_norm import norm_in
from autoslim.methods.layers.narrow import empty_attention, empty_mlp, narrow_attention, narrow_mlp
from autoslim.methods.layers.sublayer import drop_attention, drop_mlp
from autoslim.methods.unit_removal.budget_pruning import Layer
from autoslim.methods.unit_removal.least_squares import refit_reader


def check_first(shape: ViTShape, plan: Plan, method: str, reason: str) -> None:
    """Raises UnsupportedModelError unless `plan` is the dense one; with a class query it is, too."""
    dense = Plan.dense(shape).blocks
    if plan.extras or plan.blocks[:-1] != dense[:-1] or plan.blocks[-1].tokens_kv != dense[-1].tokens_kv:
        raise UnsupportedModelError(f"{method} must be a recipe's first step: {reason}")


def prune_widths(block: Any, layer: Layer, order_HK: Tensor, order_F: Tensor, *, fold: bool = False) -> None:
    """Prunes a block to the widths of `layer`, in place; readers are refitted where their moments were measured.

    Of each head and of the MLP the units that are highest in `order_HK` and `order_F` stay. `fold` multiplies these values, which are
    then masks, into the weights.
    """
    if layer.heads:
        _prune_attention(block, layer, order_HK, fold=fold)
    else:
        drop_attention(block)
    if layer.hidden:
        _prune_mlp(block, layer, order_F, fold=fold)
    else:
        drop_mlp(block)


def _prune_attention(block: Any, layer: Layer, order_HK: Tensor, *, fold: bool) -> None:
    whole = block.attn
    like = whole.qkv.weight
    order_HK = order_HK[list(layer.heads)].to(like.device)
    # The ranking has decided how many dimensions stay; each head keeps its own best.
    kept_HK = order_HK.sort(dim=1, descending=True, stable=True).indices[:, : layer.head_width].sort(dim=1).values
    gate_HK = order_HK.gather(1, kept_HK) if fold else torch.ones_like(kept_HK, dtype=like.dtype)
    block.attn = narrow_attention(whole, kept_HK, gate_HK, heads=layer.heads)
    rows_HK = kept_HK + whole.head_dim * torch.tensor(layer.heads, device=like.device)[:, None]
    # The gate is in the rows of the values already, so that the projection's inputs have it as measured; behind a norm they have not.
    gate_K = None if norm_in(whole.norm) is None else gate_HK.flatten()
    refit_reader(block.attn.proj, whole.proj, rows_HK.flatten(), gate_K=gate_K)


def _prune_mlp(block: Any, layer: Layer, order_F: Tensor, *, fold: bool) -> None:
    whole = block.mlp
    like = whole.fc2.weight
    order_F = order_F.to(like.device)
    kept_F = order_F.sort(descending=True, stable=True).indices[: layer.hidden].sort().values
    gate_F = order_F[kept_F] if fold else torch.ones_like(kept_F, dtype=like.dtype)
    block.mlp = narrow_mlp(whole, kept_F, gate_F)
    # The gate is behind the activation, so that it cannot move into fc1: the columns of fc2 take it.
    refit_reader(block.mlp.fc2, whole.fc2, kept_F, gate_K=gate_F)


def empty_widths(block: Any, plan: BlockPlan) -> None:
    """Gives a dense block the widths of `plan`, in place; the weights are set later."""
    if plan.heads:
        block.attn = empty_attention(block.attn, plan.head_width, heads=range(plan.heads))
    else:
        drop_attention(block)
    if plan.hidden:
        block.mlp = empty_mlp(block.mlp, plan.hidden)
    else:
        drop_mlp(block)
