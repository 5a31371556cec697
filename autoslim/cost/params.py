"""Parameters of a plan in closed form, equal to those of the finished model, to the integer."""

from __future__ import annotations

from autoslim.core.plan import BlockPlan, Plan
from autoslim.core.shape import BlockShape, ViTShape


def predict_params(shape: ViTShape, plan: Plan) -> int:
    """The dense model's parameters, less those that the blocks have lost, plus those of the methods' own modules."""
    lost = sum(
        _block_params(own, BlockPlan.dense(own)) - _block_params(own, block)
        for own, block in zip(shape.blocks, plan.blocks, strict=True)
    )
    return shape.params - lost + sum(extra.params for extra in plan.extras)


def _block_params(own: BlockShape, block: BlockPlan) -> int:
    """The parameters of one block whose number depends on the plan."""
    # A LayerNorm has a scale and a shift per element, an RMSNorm a scale.
    per_norm = {"layer": 2, "rms": 1}[own.norm]
    # Per attention dimension: a row of q, k and v each, a column of the projection, their biases, and what a norm behind the attention
    # has. Per hidden unit: a row of every matrix in front of the activation with its bias, a column of the last one, and that of a norm
    # behind the activation. A removed sub-layer loses its norms; the bias of its last layer stays in every plan.
    per_dim = 4 * own.dim + (2 + own.key_bias) * own.qkv_bias + per_norm * own.attention_norm
    per_unit = own.mlp_matrices * own.dim + (own.mlp_matrices - 1) * own.mlp_bias + per_norm * own.mlp_norm
    # All heads share the norms of queries and keys.
    norms_of_heads = 2 * per_norm * block.head_width * own.qk_norm
    positions = block.heads * own.head_params + own.shared_params
    attention = block.attention_width * per_dim + positions + norms_of_heads + per_norm * own.dim if block.attention_width else 0
    mlp = block.hidden * per_unit + per_norm * own.dim if block.hidden else 0
    return attention + mlp
