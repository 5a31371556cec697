"""Algorithm 1 where a block that was tuned for few patches is further off than the dense one."""

from __future__ import annotations

import copy
from typing import Any

import torch
from helpers.tiny import images, make_dense
from torch import nn

from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.methods.patch_slimming.block_tuning import _Search
from autoslim.methods.patch_slimming.impact import tokens_between_blocks
from autoslim.methods.patch_slimming.tuning_budget import Passes

MASK_P, BEHIND_P = torch.arange(64) < 20, torch.arange(64) < 10


def search_with(block_1: nn.Module | None) -> _Search:
    """An untuned search whose block 1 is as tuning for few patches may have left it; None: as in the dense model."""
    dense = make_dense("vit")
    tokens = tokens_between_blocks(dense.module.eval(), images(4))
    search = _Search(blocks_of(dense.module), tokens, dense.shape, Passes(measured=4, tuned=0), "paper", "score")
    if block_1 is not None:
        search.blocks[1] = block_1
    return search


def test_a_tuned_block_that_is_further_off_than_the_dense_one_does_not_need_all_patches():
    untuned = search_with(None).run(0.3, [1] * 4)
    assert untuned.counts[1] < 64
    off: Any = copy.deepcopy(blocks_of(make_dense("vit").module)[1])
    with torch.no_grad():
        off.mlp.fc2.weight *= 30
    search = search_with(off)
    found = search.run(0.3, [1] * 4)
    assert (found.counts, found.errors) == (untuned.counts, untuned.errors)
    assert search.blocks[1] is search.dense[1]
    # Its weights are stored, or a model would be given what it had before.
    assert 1 in found.changed


def test_a_tuned_block_stays_where_the_dense_one_is_no_closer():
    equal = copy.deepcopy(blocks_of(make_dense("vit").module)[1])
    search = search_with(equal)
    found = search.run(0.3, [1] * 4)
    assert found.counts[1] < 64 and search.blocks[1] is equal and found.changed == found.tuned


def test_tuning_starts_from_the_closer_of_both_blocks():
    carried = copy.deepcopy(blocks_of(make_dense("vit").module)[1])
    search = search_with(carried)
    dense = search._measure(1, search.dense[1], search._indices(MASK_P, BEHIND_P))
    nearer = dense[0] / 2, dense[1] / 2
    assert search._closer(1, MASK_P, BEHIND_P, nearer) == nearer and search.blocks[1] is carried
    farther = dense[0] * 2, dense[1] * 2
    assert search._closer(1, MASK_P, BEHIND_P, farther) == dense and search.blocks[1] is search.dense[1]
