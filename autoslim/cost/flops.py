"""FLOPs of a plan in closed form, equal to what fvcore counts in the finished model, to the integer.

Counted, per image and in multiply-accumulates: the patch projection, every linear layer, QK^T and AV, the classifier, and LayerNorm at 5
per element (fvcore's price). Not counted: softmax, GELU, biases, residuals, position embeddings, and RMSNorm, which fvcore sees as the
element-wise operations that it is made of.

With N_kv, N_q, N_mlp a block's tokens, D the model's width, A the attention's width (heads times head width), F the hidden units and M the
matrices of an MLP (2, or 3 where its units are gated), the matrix products of a block are

    2 N_q D A  (queries, projection) + 2 N_kv D A  (keys, values) + 2 N_q N_kv A  (QK^T, AV) + M N_mlp D F  (MLP).

Where each token attends to a window of W tokens alone, W takes the place of N_kv in QK^T and AV.
"""

from __future__ import annotations

import dataclasses

from autoslim.core.plan import BlockPlan, Plan
from autoslim.core.record import Record
from autoslim.core.shape import BlockShape, Price, ViTShape

LAYER_NORM = 5
"""fvcore's price of an affine LayerNorm per element (mean, variance, scale, shift, division)."""

NORMS = {"layer": LAYER_NORM, "rms": 0}
"""The price of a norm per element by its kind, as in `BlockShape.norm`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flops(Record):
    """Multiply-accumulates per image.

    `matmuls` are what papers count, `norms` what fvcore adds; `extras` are the method's own modules, their norms included.
    """

    matmuls: int
    norms: int
    extras: int

    @property
    def total(self) -> int:
        return self.matmuls + self.norms + self.extras


def predict(shape: ViTShape, plan: Plan) -> Flops:
    """The FLOPs of the model that `plan` describes."""
    ends = (stem(shape), head(shape, plan.tokens_out))
    blocks = tuple(zip(shape.blocks, plan.blocks, strict=True))
    matmuls = sum(end.matmuls for end in ends) + sum(block_matmuls(own, block) for own, block in blocks)
    norms = sum(end.norms for end in ends) + sum(block_norms(own, block) for own, block in blocks)
    extras = sum(extra.matmuls + extra.norms for extra in plan.extras)
    return Flops(matmuls=matmuls, norms=norms, extras=extras)


def stem(shape: ViTShape) -> Price:
    """What comes before the first block, and between the blocks: none of it depends on a plan."""
    first = shape.blocks[0]
    plain = Price(matmuls=shape.patches * shape.patch_inputs * first.dim)
    embedding = plain if shape.stem is None else shape.stem
    pre_norm = NORMS[shape.norm] * shape.tokens * first.dim if shape.pre_norm else 0
    between = [block.between for block in shape.blocks]
    return Price(
        matmuls=embedding.matmuls + sum(part.matmuls for part in between),
        norms=embedding.norms + pre_norm + sum(part.norms for part in between),
    )


def head(shape: ViTShape, tokens: int) -> Price:
    """Final norm, pooling and classifiers, where `tokens` have left the last block."""
    dim, norm = shape.blocks[-1].dim, NORMS[shape.norm]
    matmuls = shape.classifiers * dim * shape.classes
    norms = norm * dim * (tokens * shape.final_norm + shape.pooled_norm)
    if shape.attention_pool is not None:
        read = tokens if shape.pool_prefix else tokens - shape.prefix_tokens
        matmuls += shape.attention_pool.per_token * read + shape.attention_pool.fixed.matmuls
        norms += shape.attention_pool.fixed.norms
    return Price(matmuls=matmuls, norms=norms)


def block_matmuls(own: BlockShape, block: BlockPlan) -> int:
    """The matrix products of one block; see the formula above."""
    width = block.attention_width
    # Rectangular attention: fewer tokens may be computed than are there as keys and values.
    queries_and_projection = 2 * block.tokens_q * own.dim * width
    keys_and_values = 2 * block.tokens_kv * own.dim * width
    attention = 2 * block.tokens_q * (own.window or block.tokens_kv) * width
    positions = block.heads * own.head_matmuls + own.shared_matmuls if width else 0
    mlp = own.mlp_matrices * block.tokens_mlp * own.dim * block.hidden
    return own.branches * (queries_and_projection + keys_and_values + attention + positions + mlp)


def block_norms(own: BlockShape, block: BlockPlan) -> int:
    """The norms of one block; a removed sub-layer has lost its norms, too."""
    elements, width = 0, block.attention_width
    if width:
        # All tokens that enter are keys, so that all are normalised, however few are computed.
        elements += block.tokens_kv * own.dim
        # Normalised queries and keys: one norm each, over all heads' widths.
        elements += own.qk_norm * (block.tokens_q + block.tokens_kv) * width
        elements += own.attention_norm * block.tokens_q * width
    if block.hidden:
        # Where attention and MLP read the same normed tokens, the norm in front of the attention is the only one.
        elements += (not own.shared_norm) * block.tokens_mlp * own.dim + own.mlp_norm * block.tokens_mlp * block.hidden
    return NORMS[own.norm] * own.branches * elements
