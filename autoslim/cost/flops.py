"""FLOPs of a plan in closed form, equal to what fvcore counts in the finished model, to the integer.

Counted, per image and in multiply-accumulates: the patch projection, every linear layer, QK^T and AV, the classifier, and LayerNorm at 5
per element (fvcore's price). Not counted: softmax, GELU, biases, residuals, position embeddings.

With N_kv, N_q, N_mlp a block's tokens, D the model's width, A the attention's width (heads times head width) and F the hidden units, the
matrix products of a block are

    2 N_q D A  (queries, projection) + 2 N_kv D A  (keys, values) + 2 N_q N_kv A  (QK^T, AV) + 2 N_mlp D F  (MLP).
"""

from __future__ import annotations

import dataclasses

from autoslim.core.plan import BlockPlan, Plan
from autoslim.core.record import Record
from autoslim.core.shape import ViTShape

LAYER_NORM = 5
"""fvcore's price of an affine LayerNorm per element (mean, variance, scale, shift, division)."""


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
    # The stem and the head do not depend on the plan, except that the final norm sees the tokens that are left.
    matmuls = shape.patches * shape.patch_inputs * shape.dim + shape.classifiers * shape.dim * shape.classes
    norms = 0
    if shape.pre_norm:
        norms += LAYER_NORM * shape.tokens * shape.dim
    for block in plan.blocks:
        matmuls += block_matmuls(shape, block)
        norms += block_norms(shape, block)
    if shape.final_norm:
        norms += LAYER_NORM * plan.tokens_out * shape.dim
    if shape.pooled_norm:
        norms += LAYER_NORM * shape.dim
    extras = sum(extra.matmuls + extra.norms for extra in plan.extras)
    return Flops(matmuls=matmuls, norms=norms, extras=extras)


def block_matmuls(shape: ViTShape, block: BlockPlan) -> int:
    """The matrix products of one block; see the formula above."""
    width = block.attention_width
    # Rectangular attention: fewer tokens may be computed than are there as keys and values.
    queries_and_projection = 2 * block.tokens_q * shape.dim * width
    keys_and_values = 2 * block.tokens_kv * shape.dim * width
    attention = 2 * block.tokens_q * block.tokens_kv * width
    mlp = 2 * block.tokens_mlp * shape.dim * block.hidden
    return queries_and_projection + keys_and_values + attention + mlp


def block_norms(shape: ViTShape, block: BlockPlan) -> int:
    """The norms of one block; a removed sub-layer has lost its norm, too."""
    norms = 0
    if block.attention_width:
        # All tokens that enter are keys, so that all are normalised, however few are computed.
        norms += LAYER_NORM * block.tokens_kv * shape.dim
        # Normalised queries and keys: one norm each, over all heads' widths.
        if shape.qk_norm:
            norms += LAYER_NORM * (block.tokens_q + block.tokens_kv) * block.attention_width
    if block.hidden:
        norms += LAYER_NORM * block.tokens_mlp * shape.dim
    return norms
