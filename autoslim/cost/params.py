"""Parameters of a plan in closed form, equal to those of the finished model, to the integer."""

from __future__ import annotations

from autoslim.core.plan import BlockPlan, Plan
from autoslim.core.shape import ViTShape


def predict_params(shape: ViTShape, plan: Plan) -> int:
    """The dense model's parameters, less those that the blocks have lost, plus those of the methods' own modules."""
    dense = BlockPlan.dense(shape)
    lost = sum(_block_params(shape, dense) - _block_params(shape, block) for block in plan.blocks)
    return shape.params - lost + sum(extra.params for extra in plan.extras)


def _block_params(shape: ViTShape, block: BlockPlan) -> int:
    """The parameters of one block whose number depends on the plan."""
    # Per attention dimension: a row of q, k and v each, a column of the projection, and three biases. Per hidden unit: a row of fc1, a
    # column of fc2 and one bias. A removed sub-layer loses its norm (scale and shift); the bias of its last layer stays in every plan.
    width, per_norm = block.attention_width, 2 * shape.dim
    attention = width * (4 * shape.dim + 3 * shape.qkv_bias) + per_norm if width else 0
    mlp = block.hidden * (2 * shape.dim + shape.mlp_bias) + per_norm if block.hidden else 0
    return attention + mlp
