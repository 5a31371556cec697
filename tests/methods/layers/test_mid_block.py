"""A step between attention and MLP: every token attends, and the MLP computes those that are left."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.tiny import images, logits, make_dense
from torch import Tensor

from autoslim.core.plan import Plan
from autoslim.cost import count_flops, predict
from autoslim.errors import UnsupportedModelError
from autoslim.methods.layers.backbone import install
from autoslim.methods.layers.mid_block import MidBlock
from autoslim.methods.layers.rectangular_block import class_query_last
from autoslim.methods.layers.token_selector import FirstTokens, FixedTokens
from autoslim.methods.layers.token_trunk import Trunk, blocks_of
from autoslim.models import DenseModel
from autoslim.report.token_survival import follow

KEPT = 7


def selecting_in(dense: DenseModel, index: int, tokens: Tensor) -> torch.nn.Module:
    model = copy.deepcopy(dense.module)
    blocks = blocks_of(model)
    blocks[index] = MidBlock(blocks[index], FixedTokens(tokens))
    return install(model, Trunk(blocks, {})).eval()


def plan_of(dense: DenseModel, index: int) -> Plan:
    blocks = list(Plan.dense(dense.shape).blocks)
    blocks[index] = blocks[index].replace(tokens_mlp=KEPT)
    for behind in range(index + 1, len(blocks)):
        blocks[behind] = blocks[behind].replace(tokens_kv=KEPT, tokens_q=KEPT, tokens_mlp=KEPT)
    return Plan(blocks=tuple(blocks))


@pytest.mark.parametrize("model", ["deit", "distilled", "registers", "average"])
def test_its_plan_has_the_flops_that_are_counted(model: str):
    dense = make_dense(model)
    slimmed, plan = selecting_in(dense, 1, torch.arange(KEPT)), plan_of(dense, 1)
    plan.check(dense.shape)
    assert count_flops(slimmed, 32) == predict(dense.shape, plan).total < predict(dense.shape, Plan.dense(dense.shape)).total


def test_what_stays_is_what_the_whole_block_computes():
    dense = make_dense("deit")
    block, index = copy.deepcopy(dense.module.blocks[1]).double(), torch.tensor([0, 3, 5])
    x_BND = torch.randn(2, dense.shape.tokens, dense.shape.dim, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(MidBlock(block, FixedTokens(index))(x_BND), block(x_BND)[:, index], rtol=0, atol=1e-12)


def test_keeping_all_tokens_leaves_the_logits_as_they_were():
    dense = make_dense("deit")
    whole = selecting_in(dense, 2, torch.arange(dense.shape.tokens))
    torch.testing.assert_close(logits(whole, images()), logits(dense.module, images()))


def test_tokens_are_followed_through_it():
    dense = make_dense("deit")
    survival = follow(selecting_in(dense, 1, torch.arange(KEPT)), images(), dense.shape)
    kept = KEPT - dense.shape.prefix_tokens
    assert survival.weights[1].sum() == survival.weights[0].sum() == len(images()) * dense.shape.patches
    assert survival.weights[2].sum() == len(images()) * kept


def test_a_last_block_with_such_a_step_can_end_with_the_class_query():
    dense = make_dense("deit")
    last = dense.shape.depth - 1
    model = selecting_in(dense, last, torch.arange(KEPT))
    expected = logits(model, images())
    torch.testing.assert_close(logits(class_query_last(model, dense.shape.prefix_tokens), images()), expected)


def test_an_attention_mask_is_refused():
    block = MidBlock(make_dense("deit").module.blocks[0], FirstTokens(3))
    with pytest.raises(UnsupportedModelError, match="no attention mask"):
        block(torch.zeros(1, 5, 48), attn_mask=torch.zeros(5, 5))
