"""Token merging, after ToMe (ICLR 2023, arXiv 2210.09461).

In every block, between attention and MLP, the patches are dealt alternately into two sets; each of the first set is matched with its
most similar one of the second (cosine of the keys, averaged over the heads), and the most similar pairs are merged. A token is the mean
of the patches it is made of, so it is averaged by its size, and as a key it counts as often as its size (log size added to the logits).

How many are merged in which block is a line over the blocks (`slope`) that the solver stretches onto the budget. The paper has
two: the same number r in every block, and one that falls from 2 r in the first block to none in the last. The default lies half-way
between them: on held-out images it is the best of the three (docs/benchmarks/settings.md).

Ours: totals are rounded, not each block's number, so that any budget can be met; prefix tokens stay out of the matching. What the
matching multiplies is priced.

Shapes: B batch, N tokens (prefix included), P patches, S of them in the first set, T in the second, R merged ones, D width, H heads,
K head width.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autoslim.core.plan import Extra, Plan
from autoslim.core.recipe import Knobs
from autoslim.core.shape import ViTShape
from autoslim.errors import UnsupportedModelError
from autoslim.methods.knob import Knob, Ranges
from autoslim.methods.layers.backbone import install
from autoslim.methods.layers.token_trunk import blocks_of
from baselines.dense import PruneThenFinetune

CONSTANT, BEST, DECREASING = 0.0, 0.5, 1.0
"""Slopes: the paper's constant schedule, the default, and the paper's decreasing one."""

_LEAST = 1e-12
"""Keeps the length of a key of zeros above 0."""


class MergingBlock(nn.Module):
    """Takes a timm block's parts over; merges `merged` patches between attention and MLP."""

    def __init__(self, block: Any, merged: int, num_prefix_tokens: int) -> None:
        super().__init__()
        self.merged, self.num_prefix_tokens = merged, num_prefix_tokens
        self.norm1, self.attn, self.ls1, self.drop_path1 = block.norm1, block.attn, block.ls1, block.drop_path1
        self.norm2, self.mlp, self.ls2, self.drop_path2 = block.norm2, block.mlp, block.ls2, block.drop_path2

    def forward(self, x_BND: Tensor, size_BN1: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Tokens and how many patches each is made of (None: one each)."""
        attended_BND, key_BNK = proportional_attention(self.attn, self.norm1(x_BND), size_BN1)
        x_BND = x_BND + self.drop_path1(self.ls1(attended_BND))
        if self.merged:
            x_BND, size_BN1 = merge(x_BND, size_BN1, key_BNK, merged=self.merged, num_prefix_tokens=self.num_prefix_tokens)
        return x_BND + self.drop_path2(self.ls2(self.mlp(self.norm2(x_BND)))), size_BN1


class MergingTrunk(nn.Module):
    """In the place of the model's blocks; the sizes travel beside the tokens."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x_BND: Tensor) -> Tensor:
        size_BN1: Tensor | None = None
        for block in self.blocks:
            x_BND, size_BN1 = block(x_BND, size_BN1)
        return x_BND


def proportional_attention(attention: Any, x_BND: Tensor, size_BN1: Tensor | None) -> tuple[Tensor, Tensor]:
    """timm's `Attention` in its plain form, each key counted as often as its size; and the keys' mean over the heads (B, N, K)."""
    batch, tokens, _ = x_BND.shape
    qkv = attention.qkv(x_BND).reshape(batch, tokens, 3, attention.num_heads, attention.head_dim)
    q_BHNK, k_BHNK, v_BHNK = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    q_BHNK, k_BHNK = attention.q_norm(q_BHNK), attention.k_norm(k_BHNK)
    logits_BHNN = (q_BHNK * attention.scale) @ k_BHNK.transpose(-2, -1)
    if size_BN1 is not None:
        logits_BHNN = logits_BHNN + size_BN1.log().squeeze(-1)[:, None, None, :]
    out_BHNK = attention.attn_drop(logits_BHNN.softmax(dim=-1)).to(v_BHNK.dtype) @ v_BHNK
    out_BNE = out_BHNK.transpose(1, 2).reshape(batch, tokens, attention.attn_dim)
    return attention.proj_drop(attention.proj(attention.norm(out_BNE))), k_BHNK.mean(dim=1)


def merge(
    x_BND: Tensor, size_BN1: Tensor | None, key_BNK: Tensor, *, merged: int, num_prefix_tokens: int
) -> tuple[Tensor, Tensor]:
    """The tokens after `merged` patches went into their nearest, and their sizes: (B, N - R, D), (B, N - R, 1).

    Tokens come out as: prefix, what stays of the first set, the second set. No gradient goes through the choice, as in the paper's code.
    """
    prefix, size = num_prefix_tokens, torch.ones_like(x_BND[..., :1]) if size_BN1 is None else size_BN1
    with torch.no_grad():
        pairs = match(key_BNK[:, prefix:], merged)
    content = torch.cat((x_BND * size, size), dim=2)
    patches = content[:, prefix:]
    first_BSE, second_BTE = patches[:, ::2], patches[:, 1::2]
    # Matrix products with 0/1 pairs instead of a scatter with reduction, which not every runtime has.
    goes_BTR = pairs.onto(second_BTE.shape[1]).to(content.dtype)
    second_BTE = second_BTE + goes_BTR @ _rows(first_BSE, pairs.from_BR)
    content = torch.cat((content[:, :prefix], _rows(first_BSE, pairs.stays_BS), second_BTE), dim=1)
    size = content[..., -1:]
    return (content[..., :-1] / size).to(x_BND.dtype), size


class Pairs:
    """Which of the first set go (B, R), which stay (B, S - R, in order), and into which of the second set the former go (B, R)."""

    def __init__(self, from_BR: Tensor, stays_BS: Tensor, into_BR: Tensor) -> None:
        self.from_BR, self.stays_BS, self.into_BR = from_BR, stays_BS, into_BR

    def onto(self, targets: int) -> Tensor:
        """(B, T, R), 1 where the r-th goes into the t-th."""
        return self.into_BR.unsqueeze(1) == torch.arange(targets, device=self.into_BR.device)[None, :, None]


def match(key_BPK: Tensor, merged: int) -> Pairs:
    """Bipartite soft matching of patches: each of the even ones with its most similar odd one; the `merged` best pairs go."""
    unit_BPK = key_BPK * ((key_BPK * key_BPK).sum(dim=-1, keepdim=True) + _LEAST).rsqrt()
    similarity_BST = unit_BPK[:, ::2] @ unit_BPK[:, 1::2].transpose(-2, -1)
    best = similarity_BST.max(dim=-1)
    order_BS = best.values.argsort(dim=1, descending=True)
    from_BR = order_BS[:, :merged]
    return Pairs(from_BR, order_BS[:, merged:].sort(dim=1).values, best.indices.gather(1, from_BR))


def _rows(x_BND: Tensor, index_BK: Tensor) -> Tensor:
    return x_BND.gather(1, index_BK.unsqueeze(-1).expand(-1, -1, x_BND.shape[-1]))


class TokenMerging(PruneThenFinetune):
    """Knob `rate`, the mean share of the image's patches that a block merges, is solved onto the budget."""

    name = "tome"
    paper = "https://arxiv.org/abs/2210.09461"
    ranges: ClassVar[Ranges] = {
        "rate": Knob(
            kind="float", help="share of the patches that a block merges, the mean", default=0.1, low=0.0, high=0.5, cost_sign=-1
        ),
        "slope": Knob(
            kind="float",
            help="0: as many in every block (paper); 1: falling to none in the last (paper); -1: rising",
            default=BEST,
            low=-1.0,
            high=1.0,
        ),
    }

    def check(self, shape: ViTShape) -> None:
        if shape.pool != "token":
            raise UnsupportedModelError(f"pooling {shape.pool!r}: a mean over tokens would have to count their sizes")

    def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
        blocks, extras = list(plan.blocks), list(plan.extras)
        prefix, come_in = shape.prefix_tokens, shape.patches
        for index, left in enumerate(patches_left(shape, knobs["rate"], knobs["slope"])):
            merged = come_in - left
            first, second = (come_in + 1) // 2, come_in // 2
            if merged:
                work = first * second * shape.head_width + second * merged * (shape.dim + 1)
                extras.append(Extra(name="token matching", place=f"block {index}", matmuls=work, norms=0))
            blocks[index] = blocks[index].replace(tokens_kv=come_in + prefix, tokens_q=come_in + prefix, tokens_mlp=left + prefix)
            come_in = left
        return plan.replace(blocks=tuple(blocks), extras=tuple(extras))

    def build(self, model: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module:
        merged = [block.tokens_q - block.tokens_mlp for block in plan.blocks]
        blocks = zip(blocks_of(model), merged, strict=True)
        return install(model, MergingTrunk([MergingBlock(block, count, shape.prefix_tokens) for block, count in blocks]))


def patches_left(shape: ViTShape, rate: float, slope: float) -> list[int]:
    """Patches behind each block. What is merged is rounded in total, not block by block, so that any total can be had; a block can
    merge no more than the half that is in its first set.
    """
    depth, wanted, left, counts = shape.depth, 0.0, shape.patches, []
    for index in range(depth):
        position = 2 * index / max(depth - 1, 1) - 1
        wanted += rate * shape.patches * (1 - slope * position)
        left = max(shape.patches - round(wanted), left - (left + 1) // 2, 1)
        counts.append(left)
    return counts
