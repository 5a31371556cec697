"""Life regression: knobs that cut nothing, and the soft form against the cut one."""

from __future__ import annotations

import copy

import torch
from tiny import attached, finish, images, make_dense, solved_knobs
from torch import Tensor

from autoslim.methods.life_regression import schedule
from autoslim.methods.tokens import order_by

KEEP_ALL = {f"life_threshold_{k}": 0.0 for k in range(1, 5)}


def check_training_form_is_cut_form(model: str) -> None:
    """The soft form with lives that end exactly where the schedule drops, against the tokens that the hard form leaves."""
    dense = make_dense(model)
    dense.module.double()
    knobs = solved_knobs("life_regression", dense.shape) | {"temperature": 16.0}
    student = attached("life_regression", dense, knobs).double().eval()
    trunk = student.blocks
    layers, kept = schedule(dense.shape, knobs)
    orders = []

    def lives(x_BND: Tensor) -> Tensor:
        order_BP = order_by(trunk.regressor(x_BND))
        orders.append(order_BP)
        ends = torch.empty(order_BP.shape, dtype=torch.float64)
        rank_end = torch.full((dense.shape.patches,), float(dense.shape.depth))
        for layer, patches in reversed(list(zip(layers, kept, strict=True))):
            rank_end[patches:] = layer
        return ends.scatter(1, order_BP, rank_end.double().expand_as(order_BP)) - 0.5

    trunk.lives = lives
    trunk.temperature = 1e4
    x = images(dtype=torch.float64)
    with torch.no_grad():
        soft_BND = student.forward_features(x)
        finished = finish("life_regression", copy.deepcopy(student), dense.shape, knobs)
        hard_BND = finished.model.forward_features(x)
    prefix = dense.shape.prefix_tokens
    index_BK = torch.cat((torch.arange(prefix).expand(len(x), -1), orders[0][:, : kept[-1]] + prefix), dim=1)
    survivors_BND = soft_BND.gather(1, index_BK[..., None].expand(-1, -1, soft_BND.shape[2]))
    assert hard_BND.shape[1] < soft_BND.shape[1]
    torch.testing.assert_close(hard_BND, survivors_BND, rtol=0, atol=1e-10)
