"""Open models: timm's own models computed by blocks that run on any of their tokens."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from helpers.tiny import KINDS, SIZES, enliven, images, make_dense
from torch import nn

from autoslim.core.job import ModelSpec
from autoslim.core.plan import Plan
from autoslim.cost import count_flops, predict, predict_params
from autoslim.errors import UnsupportedModelError
from autoslim.methods import METHODS, refusals
from autoslim.methods.layers.backbone import install
from autoslim.methods.layers.token_selector import FixedTokens
from autoslim.methods.layers.token_trunk import Trunk, blocks_of
from autoslim.methods.layers.tokens import behind_prefix
from autoslim.models import create_dense, read_shape
from autoslim.models.placed_tokens import PlacedTokens, places_at
from autoslim.models.positional import PositionalBlock, Rotation
from autoslim.models.registry import family_of
from autoslim.training.rank_group import RankGroup
from autoslim.training.whole_batch import WholeBatch

ROTARY = ("rotary positions", "learned rotary positions", "rotary positions and norms inside")
WITH_PLACES = (*ROTARY, "relative positions", "relative positions by an MLP")
OPENED = (*WITH_PLACES, "rotary positions and attention pooling", "keys without a bias")


def timms_own(kind: str) -> nn.Module:
    """timm's model as it makes it, with weights that every part is felt of."""
    name, own = KINDS[kind]
    fixed = {"dynamic_img_size": False} if "dinov3" in name else {}
    model: nn.Module = timm.create_model(name, num_classes=10, **{**SIZES, **own, **fixed}).eval()
    enliven(model)
    return model


@pytest.mark.parametrize("kind", OPENED)
@torch.no_grad()
def test_an_open_model_computes_what_timms_does(kind: str):
    model = timms_own(kind)
    logits_BC, state, shape = model(images()), copy.deepcopy(model.state_dict()), read_shape(model)
    opened = family_of(model).open(model)
    assert all(isinstance(block, PositionalBlock) for block in opened.blocks)
    assert torch.equal(opened(images()), logits_BC)
    assert read_shape(opened) == shape
    back = family_of(opened).timm_state(opened)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "not fused"])
@pytest.mark.parametrize("kind", WITH_PLACES)
@torch.no_grad()
def test_a_token_that_goes_is_as_one_that_nobody_looks_at(kind: str, fused: bool):
    """timm's own block, in which all tokens are there and those that go are hidden as keys, against the open one without them."""
    model = timms_own(kind).double()
    model.blocks[1].attn.fused_attn = fused
    whole, prefix = copy.deepcopy(model), model.num_prefix_tokens
    x_BND = torch.randn(2, prefix + 16, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    rows_BK = behind_prefix(torch.tensor([[3, 9, 15, 0], [11, 2, 5, 14]]), num_prefix_tokens=prefix)
    hidden_BN = torch.ones(2, prefix + 16, dtype=torch.bool).scatter(1, rows_BK, False)
    mask_B11N = torch.zeros(2, 1, 1, prefix + 16, dtype=torch.float64).masked_fill(hidden_BN[:, None, None], float("-inf"))
    expected_BND = timms_block(whole, x_BND, mask_B11N)
    opened = family_of(model).open(model)
    rows = rows_BK.unsqueeze(-1).expand(-1, -1, 48)
    left = opened.blocks[1](PlacedTokens(x_BND.gather(1, rows), rows_BK))
    # Positions are in single precision, as timm's.
    torch.testing.assert_close(left.x_BND, expected_BND.gather(1, rows), rtol=0, atol=1e-6)
    assert torch.equal(left.places, rows_BK)


def timms_block(model: Any, x_BND: torch.Tensor, mask_B11N: torch.Tensor) -> torch.Tensor:
    """The second block with the positions that timm's model gives it."""
    block = model.blocks[1]
    if hasattr(block.attn, "relative_position_bias_table"):
        # timm's BEiT takes no mask, but a bias for all blocks, which is added as well.
        out: torch.Tensor = block(x_BND, shared_rel_pos_bias=mask_B11N)
        return out
    if hasattr(block.attn, "rel_pos"):
        # Neither does this one, which adds its own bias in every case.
        bias = block.attn.rel_pos.get_bias()
        block.attn.rel_pos.get_bias = lambda: bias + mask_B11N
        hidden: torch.Tensor = block(x_BND)
        return hidden
    rope = model.rope.get_embed()
    return block(x_BND, rope=rope[1] if model.rope_mixed else rope, attn_mask=mask_B11N)  # type: ignore[no-any-return]


@torch.no_grad()
def test_positions_and_norms_behind_are_opened_and_narrowed():
    torch.manual_seed(0)
    model = timm.create_model("vit_relpos_small_patch16_rpn_224", num_classes=10, **SIZES).eval()
    enliven(model)
    logits_BC, shape = model(images()), read_shape(model)
    assert shape.blocks[0].norms_behind
    opened = family_of(model).open(model)
    assert torch.equal(opened(images()), logits_BC)
    plan = Plan.dense(shape)
    widths = [{"heads": 2, "head_width": 5}, {"heads": 0, "head_width": 0}, {"hidden": 0}, {"hidden": 7}]
    plan = plan.replace(blocks=tuple(block.replace(**own) for block, own in zip(plan.blocks, widths, strict=True)))
    narrowed = METHODS["width"].build(copy.deepcopy(opened), shape, plan, METHODS["width"].repair(shape, {}))
    assert count_flops(narrowed, 32) == predict(shape, plan).total
    assert sum(p.numel() for p in narrowed.parameters()) == predict_params(shape, plan)
    assert sorted(refusals(shape)) == [
        "dps",
        "merge",
        "patch_slimming",
        "patch_slimming_merging",
        "sit",
        "sit_seeded",
    ]


def test_every_rank_draws_the_same_dropout_of_positions():
    """timm's MLP of positions has dropout, and the share of a batch is none of its rows."""
    block: Any = blocks_of(make_dense("relative positions by an MLP").module)[0].train()
    x_BND = torch.randn(2, 17, 48)
    outputs = []
    for rank in range(2):
        torch.manual_seed(5)
        with WholeBatch(RankGroup(rank, 2), 4):
            outputs.append(block(x_BND))
    assert torch.equal(*outputs)
    assert not torch.equal(block(x_BND), block(x_BND))
    block.eval()
    assert torch.equal(block(x_BND), block(x_BND))


@pytest.mark.parametrize("kind", WITH_PLACES)
def test_tokens_without_places_are_refused(kind: str):
    block = blocks_of(make_dense(kind).module)[0]
    with pytest.raises(UnsupportedModelError, match=r"meets 5 of the image's \d+ tokens"):
        block(torch.randn(1, 5, 48))


@torch.no_grad()
def test_places_go_along_through_a_trunk():
    dense = make_dense("rotary positions").module
    blocks = blocks_of(dense)
    first, second = torch.tensor([0, 7, 3, 12, 9, 4, 1, 2]), torch.tensor([0, 5, 2])
    seen: list[Any] = []
    blocks[3].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model = install(dense, Trunk(blocks, {1: FixedTokens(first), 3: FixedTokens(second)}))
    model(images())
    assert seen[0].places.tolist() == [0, 4, 3] == places_at(first, second).tolist()


@pytest.mark.parametrize("kind", ["rotary positions", "rotary positions and norms inside"])
def test_angles_keep_their_precision(kind: str):
    model = make_dense(kind).module.to(torch.bfloat16)
    tables = [part.table for part in model.modules() if isinstance(part, Rotation)]
    assert len(tables) == SIZES["depth"]
    assert all(table.dtype == torch.float32 for table in tables)
    assert model(images(dtype=torch.bfloat16)).isfinite().all()


def test_reading_a_shape_leaves_the_model_as_it_was():
    model: Any = timms_own("rotary positions").train()
    read_shape(model)
    assert model.rope.training
    assert all(part.training for part in model.modules())


def test_heads_that_share_keys_are_refused():
    with (
        pytest.raises(UnsupportedModelError, match=r"blocks\.8\.attn shares keys and values between 2 heads each"),
        torch.device("meta"),
    ):
        read_shape(timm.create_model("vit_large_patch16_sapiens2", dynamic_img_size=False))


def test_an_original_dinov3_checkpoint_is_loaded(tmp_path: Any):
    """Its names of registers, biases and scales are others than timm's, and it has parts that only pretraining needs."""
    model = timms_own("rotary positions")
    state = {}
    for name, value in model.state_dict().items():
        name = name.replace("reg_token", "storage_tokens").replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
        name = name.replace("mlp.fc1_g", "mlp.w1").replace("mlp.fc1_x", "mlp.w2").replace("mlp.fc2", "mlp.w3")
        if name.endswith("q_bias"):
            key_bias = torch.zeros_like(value)
            state[name.replace("q_bias", "qkv.bias")] = torch.cat(
                (value, key_bias, model.get_parameter(name.replace("q_b", "v_b")))
            )
        elif not name.endswith("v_bias"):
            state[name] = value
    state["mask_token"] = torch.zeros(1, 48)
    torch.save(state, tmp_path / "dinov3.pth")
    name, own = KINDS["rotary positions"]
    spec = ModelSpec(name=name, weights=str(tmp_path / "dinov3.pth"), args={**SIZES, **own})
    dense = create_dense(spec, classes=10)
    with torch.no_grad():
        assert torch.equal(dense.module(images()), model(images()))
    assert dense.switched_off == ("dynamic_img_size",)
