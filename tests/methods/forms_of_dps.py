"""DPS: knobs that cut nothing, and what holds in the place of two forms.

The selectors learn in the form that is shipped, so that the training form is the cut one; what is checked is that, and that every block
computes the very rows that the whole block would from the same tokens.
"""

from __future__ import annotations

import copy

import torch
from forms_of_patch_slimming import check_rows_are_the_whole_blocks
from helpers.tiny import attached, finalize, images, logits, make_dense, solved_knobs

KEEP_ALL = {"keep": 1.0}


def check_training_form_is_cut_form(model: str) -> None:
    dense = make_dense(model)
    dense.module.double()
    knobs = solved_knobs("dps", dense.shape)
    student = attached("dps", dense, knobs).double().eval()
    cut = finalize("dps", copy.deepcopy(student), dense.shape, knobs).model
    x = images(dtype=torch.float64)
    torch.testing.assert_close(logits(cut, x), logits(student, x), rtol=0, atol=1e-10)
    check_rows_are_the_whole_blocks(cut, dense.module)
