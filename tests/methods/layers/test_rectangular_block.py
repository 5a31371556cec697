"""Blocks that compute some rows only: the same numbers as the whole block, for the price of those rows."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from helpers.tiny import config_of, images, logits, make_dense, share_of_dense, slim
from torch import nn

from autoslim.core.plan import Plan
from autoslim.cost import count_flops, predict
from autoslim.errors import RequestError
from autoslim.export.artifact import load, save
from autoslim.methods import METHODS, solve
from autoslim.methods.layers.backbone import install
from autoslim.methods.layers.rectangular_block import RectangularBlock, class_query_last
from autoslim.methods.layers.token_selector import FirstTokens, FixedTokens, TokenSelector
from autoslim.methods.layers.token_trunk import Trunk, blocks_of
from autoslim.models.placed_tokens import TokenIndices, gather_tokens

TOKEN_POOLED = ["vit", "deit", "distilled", "registers"]


class PerImage(TokenSelector):
    def rows(self, x_BND: torch.Tensor) -> TokenIndices:
        return torch.tensor([[0, 5, 3], [0, 1, 2]])


@pytest.mark.parametrize(
    "selector", [FirstTokens(4), FixedTokens(torch.tensor([0, 9, 4])), PerImage()], ids=["first", "at", "per image"]
)
@pytest.mark.parametrize("fused", [True, False])
def test_rows_are_those_of_the_whole_block(selector: TokenSelector, fused: bool):
    block = blocks_of(make_dense("deit").module.double())[0]
    block.attn.fused_attn = fused
    x_BND = torch.randn(2, 17, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(
            RectangularBlock(block, selector)(x_BND), gather_tokens(block(x_BND), selector.rows(x_BND)), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize(
    "selector", [FirstTokens(4), FixedTokens(torch.tensor([0, 9, 4])), PerImage()], ids=["first", "at", "per image"]
)
def test_the_token_map_says_what_was_taken(selector: TokenSelector):
    x_BND = torch.randn(2, 17, 8, generator=torch.Generator().manual_seed(0))
    map_BKN = selector.token_map(x_BND)
    torch.testing.assert_close(map_BKN @ x_BND, selector(x_BND))
    assert map_BKN.sum(dim=2).eq(1).all()


@pytest.mark.parametrize("model", TOKEN_POOLED)
def test_the_class_query_alone_gives_the_same_logits_for_less(model: str):
    dense = make_dense(model)
    dense.module.double()
    x = images(dtype=torch.float64)
    expected = logits(dense.module, x)
    cheap = class_query_last(copy.deepcopy(dense.module), dense.shape.prefix_tokens).eval()
    torch.testing.assert_close(logits(cheap, x), expected, rtol=0, atol=1e-12)
    plan = Plan.dense(dense.shape, class_query=True)
    assert (
        count_flops(cheap.float(), 32) == predict(dense.shape, plan).total < predict(dense.shape, Plan.dense(dense.shape)).total
    )


@pytest.mark.parametrize("model", ["average", "average without class token"])
def test_the_class_query_is_refused_where_the_head_reads_patches(model: str):
    with pytest.raises(RequestError, match="needs pooling 'token'; this model's is 'avg'"):
        Plan.dense(make_dense(model).shape, class_query=True)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_ends_with_the_class_query_where_that_is_asked(method: str, tmp_path: Path):
    dense = make_dense("registers")
    start = Plan.dense(dense.shape, class_query=True)
    budget = share_of_dense(dense.shape, 0.6)
    solved = solve(METHODS[method], dense.shape, start, {}, budget)
    # The papers' Patch Slimming has the class query of its own.
    without = {"class_query": False} if "class_query" in METHODS[method].ranges else {}
    usual = solve(METHODS[method], dense.shape, Plan.dense(dense.shape), without, budget)
    assert solved.flops <= budget
    assert solved.plan.blocks[-1].tokens_q == solved.plan.blocks[-1].tokens_mlp == dense.shape.prefix_tokens
    # What the last block no longer spends, the others may, where that pays for a token more.
    spent, usually = (
        sum(b.tokens_kv * (b.head_width + b.hidden) for b in plan.blocks[:-1]) for plan in (solved.plan, usual.plan)
    )
    assert spent > usually or (method == "sit_seeded" and spent == usually)
    finished = slim(method, dense, class_query=True)
    model = class_query_last(finished.model, dense.shape.prefix_tokens).eval()
    assert count_flops(model, 32) == predict(dense.shape, finished.plan).total <= budget
    config = config_of(method, dense, finished)
    save(tmp_path, model, config.replace(recipe=config.recipe.replace(class_query=True)))
    torch.testing.assert_close(logits(load(tmp_path), images()), logits(model, images()))


def test_steps_of_the_trunk_stay_in_front_of_a_last_block_that_computes_rows():
    dense = make_dense("deit")
    model: nn.Module = install(dense.module, Trunk(blocks_of(dense.module), {1: FirstTokens(9), 3: FirstTokens(5)}))
    expected = logits(model.eval(), images())
    torch.testing.assert_close(logits(class_query_last(model, 1), images()), expected)
