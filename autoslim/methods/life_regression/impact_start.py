"""A start of the regressor that knows which patches matter: a regression on the impact scores of Patch Slimming. Ours.

Shapes: B images, N tokens (prefix included), P patches, D width, L blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoslim.core.shape import ViTShape
from autoslim.methods.dps.scorer import ImpactScorer, log_impact
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.methods.life_regression.regressor import LifeRegressor
from autoslim.methods.patch_slimming.impact import find_masks, tokens_between_blocks


@torch.no_grad()
def init_from_impact(
    regressor: LifeRegressor, model: nn.Module, images_B3HW: Tensor, shape: ViTShape, counts: list[int], block: int
) -> None:
    """W = v c^T / |c|^2: v predicts a patch's impact by least squares, c is the images' mean class token, both normalised.

    `model` is dense, `counts` are the patches that each block keeps, `block` is the one in front of which the regressor is. The logits
    p^T W c are then the predictions p^T v for an image whose class token is the mean one.
    """
    training = model.training
    tokens = tokens_between_blocks(model.eval(), images_B3HW)
    model.train(training)
    # Each image's own Eq. 6 runs through the patches that it keeps in later blocks. With the residual paths a patch that stays as it is
    # matters, too: they predict better which patches the model can do without.
    chain = find_masks(blocks_of(model), tokens, shape, counts, paths="residual", own=True)
    # The scores are of what a block puts out: what enters this block is put out by the one before.
    scorer = ImpactScorer(shape.dim, shape.prefix_tokens, "linear").to(images_B3HW)
    scorer.start_from(tokens[block], log_impact(chain.scores[max(block - 1, 0)]))
    x_BND = regressor.norm(tokens[block])
    class_BD = x_BND[:, 0] if regressor.class_token else x_BND[:, shape.prefix_tokens :].mean(dim=1)
    class_D = class_BD.mean(dim=0)
    start_DD = torch.outer(scorer.linear.weight[0], class_D / class_D.square().sum())
    regressor.set_start(start_DD)
