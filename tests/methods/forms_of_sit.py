"""SiT: knobs that cut nothing, and the form with reverse modules against the one without."""

from __future__ import annotations

import copy

import torch
from helpers.tiny import attached, finalize, images, logits, make_dense, solved_knobs

from autoslim.methods.sit.recalibration import RecalibratedTrunk

KEEP_ALL = {f"keep_ratio_{k}": 1.0 for k in range(1, 4)}


def check_training_form_is_cut_form(model: str) -> None:
    """No mask has to be told apart from a cut here: what only training needs stands beside the trunk."""
    dense = make_dense(model)
    dense.module.double()
    knobs = solved_knobs("sit", dense.shape)
    student = attached("sit", dense, knobs).eval()
    assert isinstance(student.blocks, RecalibratedTrunk)
    assert len(student.blocks.reverse) > 0
    finished = finalize("sit", copy.deepcopy(student), dense.shape, knobs)
    assert not isinstance(finished.model.blocks, RecalibratedTrunk)
    x = images(dtype=torch.float64)
    with torch.no_grad():
        assert finished.model.forward_features(x).shape[1] < dense.shape.tokens
    assert torch.equal(logits(finished.model, x), logits(student, x))
