"""ViT-Slim: knobs that cut nothing, and the masked form against the cut one."""

from __future__ import annotations

import copy

import torch
from helpers.tiny import attached, finalize, images, logits, make_dense, solved_knobs

from autoslim.core.plan import Plan
from autoslim.cost import predict
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.methods.vit_slim.mask_search import masks_of

KEEP_ALL = {"keep": 1.0, "start": "dense"}


def check_training_form_is_cut_form(model: str) -> None:
    """Of the widths: gates of what the cut removes set to 0, the others anywhere; patches all there.

    Masked patches are exempt: their zeroed norms still make the keys and values of the biases and stay in every softmax, while cut
    patches are no keys at all. What holds for them instead is told in `test_vit_slim`.
    """
    dense = make_dense(model)
    dense.module.double()
    knobs = solved_knobs("vit_slim", dense.shape, knobs={"patches": "stay", "start": "folded", "refit": False})
    student = attached("vit_slim", dense, knobs).eval()
    for block in blocks_of(student):
        # tanh(40) is 1 to the last digit.
        masks_of(block).patch_P.data.fill_(40.0)
    finished = finalize("vit_slim", copy.deepcopy(student), dense.shape, knobs)
    for block, plan in zip(blocks_of(student), finished.plan.blocks, strict=True):
        for zeta, count in ((block.attn.norm.zeta, plan.head_width), (block.mlp.norm.zeta, plan.hidden)):
            gone = zeta.data.sort(dim=-1, descending=True).indices[..., count:]
            zeta.data.scatter_(-1, gone, 0.0)
    x = images(dtype=torch.float64)
    assert predict(dense.shape, finished.plan).total < predict(dense.shape, Plan.dense(dense.shape)).total
    torch.testing.assert_close(logits(finished.model, x), logits(student, x), rtol=0, atol=1e-10)
