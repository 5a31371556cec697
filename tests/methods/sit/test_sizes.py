"""SiT's tokens with sizes: as a key, a made token counts as often as the patches that go into it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from helpers.tiny import images, logits, make_dense, method_tests, slim, solved_knobs
from torch import nn

from autoslim.core.plan import Plan
from autoslim.cost import count_flops, predict, predict_params
from autoslim.errors import UnsupportedModelError
from autoslim.methods.layers.groups import SizedTokens
from autoslim.methods.layers.merging import MergingTrunk
from autoslim.methods.layers.token_trunk import blocks_of, pre_blocks_of
from autoslim.methods.sit.patch_mixture import PatchMixture
from autoslim.methods.sit.seeded_slimming import SeededSlimming
from autoslim.methods.sit.token_slimming import TokenSlimming, init_slimming

of_the_method = method_tests("sit")
METHOD, scrambled, tokens = of_the_method.METHOD, of_the_method.scrambled, of_the_method.tokens
SIZED = {"sizes": "patches"}


def modules(prefix: int) -> list[PatchMixture]:
    seeded = SeededSlimming(12, 4, prefix, sized=True)
    seeded.seed.copy_(torch.tensor([4, 0, 7, 2]))
    return [scrambled(TokenSlimming(12, 4, prefix, sized=True)), scrambled(seeded)]


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_a_made_tokens_size_is_the_share_that_it_has_of_each_patch(prefix: int):
    x_BND, size_BN = tokens(2, prefix + 9, 12), 1 + tokens(2, prefix + 9, seed=2).abs()
    size_BN[:, :prefix] = 1
    for module in modules(prefix):
        mixture_BKP, share_BKP = module.mixture_and_shares(x_BND[:, prefix:])
        assert torch.equal(mixture_BKP, module.mixture(x_BND[:, prefix:]))
        made = module(SizedTokens(x_BND, size_BN))
        # The tokens are as without sizes: what a mixture weighs does not depend on them.
        assert torch.equal(made.x_BND, module(x_BND))
        assert torch.equal(made.size_BN[:, :prefix], size_BN[:, :prefix])
        expected_BK = torch.einsum("bkp,bp->bk", share_BKP, size_BN[:, prefix:])
        torch.testing.assert_close(made.size_BN[:, prefix:], expected_BK, rtol=0, atol=1e-5)
        whole_B, left_B = size_BN.sum(dim=1), made.size_BN.sum(dim=1)
        # Learned slots share every patch out; with seeds, a slot that is not made takes some.
        if isinstance(module, TokenSlimming):
            torch.testing.assert_close(left_B, whole_B, rtol=0, atol=1e-4)
        else:
            assert (left_B < whole_B).all()
        # The next module begins from these sizes, and one that nothing was made of before from ones.
        ones = module(SizedTokens(x_BND, None)).size_BN
        torch.testing.assert_close(ones[:, prefix:], share_BKP.sum(dim=2), rtol=0, atol=1e-5)


def test_learned_slots_start_with_the_sizes_of_the_groups_that_they_average():
    torch.manual_seed(0)
    # Three kinds of patches: 6, 2 and 1 of each image's nine.
    kinds_3D = 3 * torch.randn(3, 24)
    x_BPD = kinds_3D[torch.tensor([0] * 6 + [1] * 2 + [2])].expand(8, -1, -1) + 0.01 * torch.randn(8, 9, 24)
    module = TokenSlimming(24, 4, 0, sized=True)
    init_slimming(module, x_BPD, 3, sharpness=20.0)
    sizes_BK = module(SizedTokens(x_BPD, None)).size_BN
    found, _ = sizes_BK[:, :3].mean(dim=0).sort(descending=True)
    torch.testing.assert_close(found, torch.tensor([6.0, 2.0, 1.0]), rtol=0, atol=0.3)
    assert sizes_BK[:, 3].max() < 0.1


@pytest.mark.parametrize("model", ["vit", "average"])
def test_every_block_behind_a_stage_reads_keys_by_their_sizes(model: str):
    dense = make_dense(model)
    finished = slim("sit", dense, knobs=SIZED)
    trunk: Any = finished.model.blocks
    assert isinstance(trunk, MergingTrunk)
    masks, sizes = [], []
    for block in blocks_of(finished.model):
        block.register_forward_pre_hook(lambda _, given, named: masks.append(named["attn_mask"]), with_kwargs=True)
    for step in pre_blocks_of(finished.model).values():
        step.register_forward_hook(lambda _, given, made: sizes.append(made.size_BN))
    logits(finished.model, images())
    first = min(pre_blocks_of(finished.model))
    assert masks[:first] == [None] * first
    assert len(sizes) == len(pre_blocks_of(finished.model))
    torch.testing.assert_close(masks[first][:, 0, 0], sizes[0].log())
    assert masks[-1].shape[-1] == sizes[-1].shape[1]
    # A mean over the patches weighs them, too.
    assert (trunk.end is not None) == (model == "average")


def test_what_it_costs_is_in_the_plan_and_both_forms_compute_the_same():
    dense = make_dense()
    finished = slim("sit", dense, knobs=SIZED)
    assert count_flops(finished.model, 32) == predict(dense.shape, finished.plan).total
    params = sum(p.numel() for p in finished.model.parameters())
    assert params == predict_params(dense.shape, finished.plan)
    plain = METHOD.expect(dense.shape, Plan.dense(dense.shape), {**finished.knobs, "sizes": "one"})
    made = sum(step.fc2.out_features for step in pre_blocks_of(finished.model).values() if isinstance(step, TokenSlimming))
    assert params - predict_params(dense.shape, plain) == made
    of_the_method.check_training_form_is_pruned_form("vit", "image")
    with torch.no_grad():
        restored = finished.model.forward_features(images(), restore_tokens=True)
    assert restored.shape == (3, dense.shape.tokens, dense.shape.dim)


def test_sizes_are_ours_and_refused_where_the_head_cannot_weigh_them():
    dense = make_dense()
    assert METHOD.repair(dense.shape, {})["sizes"] == "one"
    older = {name: value for name, value in solved_knobs("sit", dense.shape).items() if name != "sizes"}
    assert METHOD.repair(dense.shape, older)["sizes"] == "one"
    built = METHOD.build(copy.deepcopy(dense.module), dense.shape, slim("sit", dense).plan, older)
    assert not isinstance(built.blocks, MergingTrunk)
    with pytest.raises(UnsupportedModelError, match="SiT with sizes 'patches': merged tokens need pooling"):
        METHOD.repair(dense.shape.replace(pool="avgmax"), SIZED)


def test_gradients_reach_the_sizes():
    module = TokenSlimming(12, 4, 1, sized=True)
    made = module(SizedTokens(torch.randn(2, 10, 12), None))
    made.size_BN[:, 1:].log().sum().backward()
    assert isinstance(module.size_bias, nn.Parameter)
    assert module.size_bias.grad is not None and module.size_bias.grad.abs().sum() > 0
