"""Class-attention top-k with a fused token, after EViT (ICLR 2022, arXiv 2202.07800).

Inside three blocks, between attention and MLP, the patches that the class token attends to most stay (mean over the heads); the others
are fused into one token, weighted by that attention. As in its code the fused token is a candidate like any other at the next stage.
The attention is computed anyway, so that only the fused token's weighted sum is paid for.

Ours: the counts of the three stages may differ by single tokens, so that the budget is filled; `fuse` may weigh by attention as it is
(the paper's code) or by attention that sums to 1.

Shapes: B batch, N tokens (prefix included), P patches, K kept patches, D width, H heads, E heads times head width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autoslim.core.plan import Extra, Plan
from autoslim.core.recipe import Knobs
from autoslim.core.shape import ViTShape
from autoslim.errors import UnsupportedModelError
from autoslim.methods.knob import Knob, Ranges, complete
from autoslim.methods.layers.backbone import install
from autoslim.methods.layers.token_trunk import Trunk, blocks_of, refuse_mask
from autoslim.methods.layers.tokens import behind_prefix, order_by
from baselines.dense import PruneThenFinetune

STAGES = 3


class SelectingBlock(nn.Module):
    """Takes a timm block's parts over; hands on the prefix, the `kept` patches with the most class attention, and the fused rest."""

    def __init__(self, block: Any, kept: int, num_prefix_tokens: int, fuse: str) -> None:
        super().__init__()
        self.kept, self.num_prefix_tokens, self.fuse = kept, num_prefix_tokens, fuse
        self.norm1, self.attn, self.ls1, self.drop_path1 = block.norm1, block.attn, block.ls1, block.drop_path1
        self.norm2, self.mlp, self.ls2, self.drop_path2 = block.norm2, block.mlp, block.ls2, block.drop_path2

    def forward(self, x_BND: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        refuse_mask(attn_mask, is_causal)
        attended_BND, class_BP = attention_with_class_row(self.attn, self.norm1(x_BND), self.num_prefix_tokens)
        x_BND = x_BND + self.drop_path1(self.ls1(attended_BND))
        x_BKD = self._select(x_BND, class_BP)
        out: Tensor = x_BKD + self.drop_path2(self.ls2(self.mlp(self.norm2(x_BKD))))
        return out

    def _select(self, x_BND: Tensor, class_BP: Tensor) -> Tensor:
        if self.kept == class_BP.shape[1]:
            return x_BND
        order_BP = order_by(class_BP.float())
        kept_BK = behind_prefix(order_BP[:, : self.kept], num_prefix_tokens=self.num_prefix_tokens)
        rest = order_BP[:, self.kept :]
        weight_BR = class_BP.gather(1, rest)
        if self.fuse == "mean":
            weight_BR = weight_BR / weight_BR.sum(dim=1, keepdim=True)
        fused_B1D = weight_BR.unsqueeze(1).to(x_BND.dtype) @ _rows(x_BND, rest + self.num_prefix_tokens)
        return torch.cat((_rows(x_BND, kept_BK), fused_B1D.to(x_BND.dtype)), dim=1)


def _rows(x_BND: Tensor, index_BK: Tensor) -> Tensor:
    return x_BND.gather(1, index_BK.unsqueeze(-1).expand(-1, -1, x_BND.shape[-1]))


def attention_with_class_row(attention: Any, x_BND: Tensor, num_prefix_tokens: int) -> tuple[Tensor, Tensor]:
    """timm's `Attention` in its plain form, and how much the class token attends to each patch, the mean over the heads (B, P)."""
    batch, tokens, _ = x_BND.shape
    qkv = attention.qkv(x_BND).reshape(batch, tokens, 3, attention.num_heads, attention.head_dim)
    q_BHNK, k_BHNK, v_BHNK = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    q_BHNK, k_BHNK = attention.q_norm(q_BHNK), attention.k_norm(k_BHNK)
    weight_BHNN = ((q_BHNK * attention.scale) @ k_BHNK.transpose(-2, -1)).softmax(dim=-1)
    class_BP = weight_BHNN[:, :, 0, num_prefix_tokens:].mean(dim=1)
    out_BNE = (attention.attn_drop(weight_BHNN) @ v_BHNK).transpose(1, 2).reshape(batch, tokens, attention.attn_dim)
    return attention.proj_drop(attention.proj(attention.norm(out_BNE))), class_BP


class ClassAttentionTopK(PruneThenFinetune):
    """Knobs: in block `layer_k` the share `keep_k` of the patches that come in stays."""

    name = "evit"
    paper = "https://arxiv.org/abs/2202.07800"
    ranges: ClassVar[Ranges] = {
        **{
            f"layer_{k}": Knob(
                kind="layer", help=f"block in which stage {k} selects", default=k / (STAGES + 1), low=0.0, high=1.0
            )
            for k in range(1, STAGES + 1)
        },
        **{
            f"keep_{k}": Knob(
                kind="float", help=f"share of the patches kept by stage {k}", default=0.7, low=0.01, high=1.0, cost_sign=1
            )
            for k in range(1, STAGES + 1)
        },
        "fuse": Knob(
            kind="choice",
            help="weights of the fused token: attention (paper) or its mean",
            default="sum",
            choices=("sum", "mean"),
        ),
    }

    def check(self, shape: ViTShape) -> None:
        if shape.pool != "token":
            raise UnsupportedModelError(
                f"pooling {shape.pool!r}: class attention says nothing of a head that does not read the class token"
            )
        if shape.depth <= STAGES:
            raise UnsupportedModelError(f"{STAGES} stages need more than {STAGES} blocks, the model has {shape.depth}")

    def repair(self, shape: ViTShape, knobs: Knobs) -> Knobs:
        """Layers in rising order, each its own; a share becomes that of the count it selects, ceil(keep * patches)."""
        full = complete(self.ranges, knobs, depth=shape.depth)
        layers = sorted(full[f"layer_{k}"] for k in range(1, STAGES + 1))
        for k in range(1, STAGES):
            layers[k] = max(layers[k], layers[k - 1] + 1)
        overhang = max(0, layers[-1] - (shape.depth - 1))
        come_in = shape.patches
        for k, layer in enumerate(layers, 1):
            full[f"layer_{k}"] = layer - overhang
            kept = _kept(full[f"keep_{k}"], come_in)
            full[f"keep_{k}"] = kept / come_in
            come_in = _handed_on(kept, come_in)
        return full

    def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
        blocks, extras = list(plan.blocks), list(plan.extras)
        patches = shape.patches
        stages = {knobs[f"layer_{k}"]: knobs[f"keep_{k}"] for k in range(1, STAGES + 1)}
        for index, block in enumerate(blocks):
            come_in = patches
            if index in stages:
                kept = _kept(stages[index], come_in)
                patches = _handed_on(kept, come_in)
                if kept < come_in:
                    name, place = "fused token", f"block {index}"
                    extras.append(Extra(name=name, place=place, matmuls=(come_in - kept) * shape.dim, norms=0))
            tokens, left = come_in + shape.prefix_tokens, patches + shape.prefix_tokens
            blocks[index] = block.replace(tokens_kv=tokens, tokens_q=tokens, tokens_mlp=left)
        return plan.replace(blocks=tuple(blocks), extras=tuple(extras))

    def costlier(self, shape: ViTShape, knobs: Knobs, ranges: Ranges) -> Iterator[Knobs]:
        """One patch more at one stage; the later ones keep their counts."""
        counts = _counts(shape, knobs)
        for k in range(STAGES):
            yield from _with_counts(shape, knobs, [count + (j == k) for j, count in enumerate(counts)])

    def build(self, model: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module:
        blocks = blocks_of(model)
        come_in = shape.patches
        for k in range(1, STAGES + 1):
            kept = _kept(knobs[f"keep_{k}"], come_in)
            blocks[knobs[f"layer_{k}"]] = SelectingBlock(blocks[knobs[f"layer_{k}"]], kept, shape.prefix_tokens, knobs["fuse"])
            come_in = _handed_on(kept, come_in)
        return install(model, Trunk(blocks, {}))


def _kept(keep: float, come_in: int) -> int:
    # Without the rounding a share that was stored as a quotient could come back as one patch more.
    return min(max(math.ceil(round(keep * come_in, 6)), 1), come_in)


def _handed_on(kept: int, come_in: int) -> int:
    """The kept and the fused one; keeping all but one saves nothing and so keeps all."""
    return kept if kept == come_in else kept + 1


def _counts(shape: ViTShape, knobs: Knobs) -> list[int]:
    counts, come_in = [], shape.patches
    for k in range(1, STAGES + 1):
        counts.append(_kept(knobs[f"keep_{k}"], come_in))
        come_in = _handed_on(counts[-1], come_in)
    return counts


def _with_counts(shape: ViTShape, knobs: Knobs, counts: list[int]) -> Iterator[Knobs]:
    changed, come_in = dict(knobs), shape.patches
    for k, kept in enumerate(counts, 1):
        if not 1 <= kept <= come_in:
            return
        changed[f"keep_{k}"] = max(kept / come_in, 0.01)
        come_in = _handed_on(kept, come_in)
    yield changed
