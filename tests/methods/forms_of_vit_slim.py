"""ViT-Slim: knobs that cut nothing, and the masked form against the cut one."""

from __future__ import annotations

import copy

import torch
from tiny import attached, finish, images, logits, make_dense, solved_knobs

from autoslim.flops import predict
from autoslim.methods.trunk import blocks_of
from autoslim.plan import Plan

KEEP_ALL = {"keep": 1.0}


def check_training_form_is_cut_form(model: str) -> None:
    """Gates of the dimensions that the cut removes set to 0, the others anywhere."""
    dense = make_dense(model)
    dense.module.double()
    knobs = solved_knobs("vit_slim", dense.shape)
    student = attached("vit_slim", dense, knobs).eval()
    finished = finish("vit_slim", copy.deepcopy(student), dense.shape, knobs)
    for block, plan in zip(blocks_of(student), finished.plan.blocks, strict=True):
        for zeta, count in ((block.attn.norm.zeta, plan.head_width), (block.mlp.norm.zeta, plan.hidden)):
            gone = zeta.data.sort(dim=-1, descending=True).indices[..., count:]
            zeta.data.scatter_(-1, gone, 0.0)
    x = images(dtype=torch.float64)
    assert predict(dense.shape, finished.plan).total < predict(dense.shape, Plan.dense(dense.shape)).total
    torch.testing.assert_close(logits(finished.model, x), logits(student, x), rtol=0, atol=1e-10)
