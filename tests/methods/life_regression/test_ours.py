"""What is ours in life regression, and off by default: readings, starts, lives and ends that the paper does not have."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from helpers.tiny import attach, attached, batch_of, images, make_dense, slim, solved_knobs
from torch.nn import functional

from autoslim.core.plan import Plan
from autoslim.methods import METHODS
from autoslim.methods.dps.method import tokens_entering
from autoslim.methods.dps.scorer import log_impact
from autoslim.methods.layers.merging import MergingBlock
from autoslim.methods.layers.rectangular_block import RectangularBlock
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.methods.life_regression.regressor import KeepLongestLived, LifeRegressor, likeness_to_longer_lived
from autoslim.methods.life_regression.schedule import soft_ends
from autoslim.methods.patch_slimming.impact import find_masks, tokens_between_blocks

METHOD = METHODS["life_regression"]
TWO_DROPS = {"drops": 2, "drop_layer_1": 1, "drop_layer_2": 2, "life_threshold_1": 0.3, "life_threshold_2": 0.6}


def test_the_block_of_a_drop_still_reads_what_it_removes():
    dense = make_dense("vit")
    finished = slim("life_regression", dense, share=0.7, knobs={**TWO_DROPS, "last_reading": True})
    blocks: list[Any] = blocks_of(finished.model)
    assert [type(block) is RectangularBlock for block in blocks] == [False, True, True, False]
    assert isinstance(blocks[1].selector, KeepLongestLived)
    entering = [block.tokens_kv for block in finished.plan.blocks]
    leaving = [block.tokens_mlp for block in finished.plan.blocks]
    assert entering[1:] == leaving[:-1] and leaving[1] < entering[1]
    # The rows that stay are those of the whole block on all tokens that enter it.
    x_BND = tokens_entering(finished.model, images(), [1])[1]
    rows = blocks[1].selector.rows(x_BND)
    whole: Any = copy.deepcopy(blocks_of(make_dense("vit").module)[1])
    whole.load_state_dict({name: value for name, value in blocks[1].state_dict().items() if not name.startswith("selector.")})
    expected_BND = whole.eval()(x_BND)
    found_BKD = blocks[1](x_BND)
    for image in range(len(x_BND)):
        torch.testing.assert_close(found_BKD[image], expected_BND[image, rows[image]], rtol=1e-4, atol=1e-5)


def test_what_is_read_once_more_may_merge_then():
    finished = slim("life_regression", make_dense("vit"), share=0.7, knobs={**TWO_DROPS, "last_reading": True, "dead": "merge"})
    assert [isinstance(block, MergingBlock) for block in blocks_of(finished.model)] == [False, True, True, False]


def test_soft_lives_end_a_block_later_where_they_are_read_once_more():
    dense = make_dense("vit", depth=6)
    at_once = METHOD.repair(dense.shape, TWO_DROPS)
    once_more = METHOD.repair(dense.shape, {**TWO_DROPS, "last_reading": True})
    life_BP = torch.zeros(1, 64)
    before, after = (soft_ends(dense.shape, knobs) for knobs in (at_once, once_more))
    assert (before.regressor, before.first, after.regressor, after.first) == (1, 1, 1, 2)
    assert [after.of(block + 1, life_BP) for block in range(1, 5)] == [before.of(block, life_BP) for block in range(1, 5)]
    student = attached("life_regression", dense, once_more).eval()
    masked = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        masked.append("attn_mask" in kwargs)

    for block in student.blocks.blocks:
        block.register_forward_pre_hook(note, with_kwargs=True)
    student(images())
    assert masked == [False, False, True, True, True, True]


def test_the_last_block_removes_nothing_where_it_would_read_it_and_the_head_would_not():
    shape = make_dense("vit").shape
    late = {"drops": 1, "drop_layer_1": 3, "life_threshold_1": 0.5}
    assert METHOD.repair(shape, late)["drop_layer_1"] == 3
    assert METHOD.repair(shape, {**late, "last_reading": True})["drop_layer_1"] == 2
    every = METHOD.repair(shape, {**late, "drops": "every", "drop_layer_1": 1, "last_reading": True})
    plan = METHOD.expect(shape, Plan.dense(shape), every)
    assert plan.blocks[-1].tokens_mlp == plan.blocks[-2].tokens_mlp
    averaged = make_dense("average without class token").shape
    assert METHOD.repair(averaged, {**late, "last_reading": True})["drop_layer_1"] == 3


def test_adaptive_counts_have_no_last_reading():
    shape = make_dense("vit").shape
    assert "last_reading" not in METHOD.repair(shape, {"mode": "threshold"})


def test_a_patch_loses_life_for_its_likeness_to_those_that_live_longer():
    patches_BPD, life_BP = torch.randn(2, 7, 5), torch.randn(2, 7)
    patches_BPD[:, 3] = patches_BPD[:, 0]
    found_BP = likeness_to_longer_lived(patches_BPD, life_BP)
    for image in range(2):
        for patch in range(7):
            longer = [other for other in range(7) if life_BP[image, other] > life_BP[image, patch]]
            centred = patches_BPD[image] - patches_BPD[image].mean(dim=1, keepdim=True)
            cosines = [functional.cosine_similarity(centred[patch], centred[other], dim=0).item() for other in longer]
            assert found_BP[image, patch].item() == pytest.approx(max([0.0, *cosines]), abs=1e-5)
        assert found_BP[image, [0, 3]].max().item() == pytest.approx(1.0, abs=1e-5)


def test_diversity_only_shortens_lives_and_leaves_the_longest():
    plain, diverse = LifeRegressor(6, 1), LifeRegressor(6, 1, diversity=1.0)
    diverse.load_state_dict(plain.state_dict())
    x_BND = torch.randn(3, 9, 6)
    logit_BP = plain(x_BND)
    z_BP = (logit_BP - logit_BP.mean(dim=1, keepdim=True)) / logit_BP.std(dim=1, keepdim=True)
    lost_BP = z_BP - diverse(x_BND)
    assert lost_BP.min() >= -1e-5 and lost_BP.max() > 0.1
    torch.testing.assert_close(lost_BP.gather(1, z_BP.argmax(dim=1, keepdim=True)), torch.zeros(3, 1), rtol=0, atol=1e-5)


def test_soft_ends_become_as_sharp_as_asked_for():
    dense = make_dense("vit")
    knobs = solved_knobs("life_regression", dense.shape, knobs={"temperature": 1.0, "anneal": 16.0})
    student = attached("life_regression", dense, knobs)
    for progress, wanted in ((0.0, 1.0), (0.5, 4.0), (1.0, 16.0)):
        batch = batch_of(student, dense.module, dense.shape)
        batch.progress = progress
        METHOD.loss(knobs, batch)
        assert student.blocks.temperature == pytest.approx(wanted)


def test_noise_changes_lives_while_the_regressor_is_trained_and_not_afterwards():
    dense = make_dense("vit")
    knobs = solved_knobs("life_regression", dense.shape, knobs={"noise": 0.5})
    student = attached("life_regression", dense, knobs)
    torch.manual_seed(0)
    noisy = [student.train()(images()) for _ in range(2)]
    assert not torch.equal(*noisy)
    quiet = [student.eval()(images()) for _ in range(2)]
    assert torch.equal(*quiet)
    without = attached("life_regression", dense, {**knobs, "noise": 0.0})
    assert torch.equal(without.train()(images()), quiet[0])


def test_the_regressor_may_start_at_what_impact_scores_say():
    dense = make_dense("vit")
    x = images(16)
    knobs = solved_knobs("life_regression", dense.shape, knobs={**TWO_DROPS, "start": "impact"})
    trunk = attach("life_regression", dense, knobs, x).blocks
    tokens = tokens_between_blocks(dense.module.eval(), x)
    counts = [block.tokens_mlp - 1 for block in METHOD.expect(dense.shape, Plan.dense(dense.shape), knobs).blocks]
    chain = find_masks(blocks_of(dense.module), tokens, dense.shape, counts, paths="residual", own=True)
    wanted_BP = log_impact(chain.scores[0])
    agreement = torch.corrcoef(torch.stack((trunk.lives(tokens[1]).flatten(), wanted_BP.flatten())))[0, 1]
    uniform = LifeRegressor.of_shape(dense.shape)(tokens[1])
    chance = torch.corrcoef(torch.stack((uniform.flatten(), wanted_BP.flatten())))[0, 1]
    assert agreement > 0.4 and agreement > abs(chance) + 0.2, (agreement, chance)
