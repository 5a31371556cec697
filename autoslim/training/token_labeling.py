"""Token labeling (Jiang et al., NeurIPS 2021, arXiv 2104.10858): while the dense model is trained, a second head classifies every patch.

The head is the model's companion, and no part of what the training leaves: slimmed models have none, as SiT and Patch Slimming count their
FLOPs. MixToken, which pastes patches of one image into another, is not here; mixup mixes labels of patches as it mixes images.

Shapes: B batch, P patches, N tokens (prefix included), D width, C classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoslim.core.recipe import TrainingSettings
from autoslim.errors import UnsupportedModelError
from autoslim.methods.base import logits_of
from autoslim.methods.trainer import Tensors
from autoslim.models import DenseModel
from autoslim.training.best_state import COMPANION

PATCH_WEIGHT = 0.5
"""Weight of the patches' mean loss beside that of the image (section 3.2)."""


def attach_patch_head(dense: DenseModel, *, seed: int) -> None:
    """Gives the model its second head, with random weights.

    Raises:
        UnsupportedModelError: for a model that has no token for each patch in the end.
    """
    if dense.shape.windowed:
        raise UnsupportedModelError(
            "token labels are for the patches of one grid, and this model's stages have grids of their own; leave out --token-labels"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(dense.shape.blocks[-1].dim, dense.shape.classes)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
    dense.module.add_module(COMPANION, head.to(next(dense.module.parameters()).device))


def drop_patch_head(module: nn.Module) -> None:
    """Does nothing where the model has none."""
    if hasattr(module, COMPANION):
        delattr(module, COMPANION)


def token_labeling_loss(student: nn.Module, images_B3HW: Tensor, targets: Tensor, training: TrainingSettings) -> Tensors:
    """Cross entropy of the image's class, and `PATCH_WEIGHT` times that of the patches, of a model with a second head.

    `targets` (B, 1 + P, C) are the soft labels of the image and of its patches; they are smoothed here.
    """
    vit: Any = student
    tokens_BND = vit.forward_features(images_B3HW)
    logits_BC = logits_of(vit.forward_head(tokens_BND)).float()
    # Where the norm is behind the pooling, patches have not been normalised yet.
    patches_BPD = vit.fc_norm(tokens_BND[:, vit.num_prefix_tokens :])
    patches_BPC = vit.companion(patches_BPD).float()
    smoothing = training.label_smoothing
    image = functional.cross_entropy(logits_BC, targets[:, 0], label_smoothing=smoothing)
    patches = functional.cross_entropy(patches_BPC.flatten(0, 1), targets[:, 1:].flatten(0, 1), label_smoothing=smoothing)
    return {"loss": image + PATCH_WEIGHT * patches, "patch_loss": patches}
