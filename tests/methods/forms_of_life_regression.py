"""Life regression: knobs that cut nothing, and the soft form against the cut one."""

from __future__ import annotations

import copy

import torch
from helpers.tiny import attached, finalize, images, make_dense, solved_knobs
from torch import Tensor

from autoslim.methods.layers.adaptive_trunk import token_counts
from autoslim.methods.layers.tokens import order_by
from autoslim.methods.life_regression.method import schedule

KEEP_ALL = {f"life_threshold_{k}": 0.0 for k in range(1, 5)}
VARIANTS = {"threshold": {"mode": "threshold"}}


def check_training_form_is_cut_form(model: str, variant: str = "") -> None:
    """The soft form with lives that end exactly where the cut form drops, against the tokens that the cut form leaves."""
    dense = make_dense(model)
    dense.module.double()
    knobs = solved_knobs(f"life_regression:{variant}" if variant else "life_regression", dense.shape) | {"temperature": 16.0}
    student = attached("life_regression", dense, knobs).double().eval()
    trunk = student.blocks
    layers, caps = schedule(dense.shape, knobs)
    own_lives = trunk.lives
    orders, kept = [], []

    def lives(x_BND: Tensor) -> Tensor:
        life_BP = own_lives(x_BND)
        orders.append(order_by(life_BP))
        rank_end_BP = torch.full(life_BP.shape, float(dense.shape.depth), dtype=torch.float64)
        rank_P = torch.arange(dense.shape.patches)
        for layer, cap in reversed(list(zip(layers, caps, strict=True))):
            longer_B = (life_BP > layer).sum(dim=1) if variant else torch.full((len(life_BP),), cap)
            kept.append(longer_B.clamp(min=1, max=cap))
            rank_end_BP[rank_P >= kept[-1][:, None]] = layer
        return torch.empty_like(rank_end_BP).scatter(1, orders[0], rank_end_BP) - 0.5

    trunk.lives = lives
    trunk.temperature = 1e4
    x = images(dtype=torch.float64)
    with torch.no_grad():
        soft_BND = student.forward_features(x)
        finished = finalize("life_regression", copy.deepcopy(student), dense.shape, knobs).model.double()
        hard_BND = finished.forward_features(x)
    prefix, kept_B = dense.shape.prefix_tokens, kept[0]
    if variant:
        assert torch.equal(token_counts(finished, x)[:, -1, 1], kept_B + prefix)
    for image, patches in enumerate(kept_B.tolist()):
        rows_K = torch.cat((torch.arange(prefix), orders[0][image, :patches] + prefix))
        assert len(rows_K) < dense.shape.tokens
        torch.testing.assert_close(hard_BND[image, : len(rows_K)], soft_BND[image, rows_K], rtol=0, atol=1e-10)
