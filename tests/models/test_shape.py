"""What is read off a dense model, and which parts are refused by name."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from helpers.tiny import MODELS, SIZES, make_dense, slim, slimmed

from autoslim.core.job import ModelSpec
from autoslim.core.plan import Plan
from autoslim.core.shape import BlockShape, Price, ViTShape
from autoslim.cost import count_flops, predict, predict_params
from autoslim.errors import RequestError, UnsupportedModelError
from autoslim.methods import METHODS, check_method, refusals
from autoslim.methods.layers.narrow import empty_mlp
from autoslim.models import create_dense, read_shape, stem


@pytest.mark.parametrize("model", MODELS)
def test_shape_is_the_models(model: str):
    shape = make_dense(model).shape
    patch = MODELS[model][1].get("patch_size", 8)
    assert (shape.image_size, shape.grid) == ((32, 32), (32 // patch, 32 // patch))
    assert (shape.depth, shape.dim, shape.heads, shape.head_width, shape.hidden) == (4, 48, 3, 16, 192)
    assert shape.patch_inputs == 3 * patch * patch
    assert (shape.final_norm, shape.pooled_norm) == ((False, True) if model.startswith("average") else (True, False))
    assert shape.classes == 10
    assert shape.classifiers == (2 if model == "distilled" else 1)


@pytest.mark.parametrize(
    ("model", "prefix"),
    [("vit", 1), ("distilled", 2), ("average", 1), ("average without class token", 0), ("registers", 5)],
)
def test_prefix_tokens_are_counted(model: str, prefix: int):
    shape = make_dense(model).shape
    assert shape.prefix_tokens == prefix
    assert shape.tokens == shape.patches + prefix


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "layers on classes alone": ("cait_xxs24_224", {}, "Cait"),
    "shared relative positions": ("vit_srelpos_small_patch16_224", {"depth": 1}, "shared_rel_pos"),
    "patch dropout": ("vit_tiny_patch16_224", {"depth": 1, "patch_drop_rate": 0.5}, "patch_drop"),
    "refined patches": ("vit_tiny_patch16_224", {"depth": 1, "global_pool": "prr"}, "pooling 'prr'"),
    "one channel": ("vit_tiny_patch16_224", {"depth": 1, "in_chans": 1}, "patch_embed takes 1 channels"),
    "norm without a scale": ("vit_tiny_patch16_224", {"depth": 1, "norm_layer": "simplenorm"}, "blocks.0.norm1"),
    "differential attention": ("vit_dwee_patch16_reg1_gap_256", {"depth": 1}, "blocks.0.attn"),
    "convolutional network": ("resnet18", {}, "ResNet"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_slimmed_is_refused_by_the_name_of_its_part(case: str):
    name, args, part = REFUSED[case]
    with pytest.raises(UnsupportedModelError) as refusal:
        create_dense(ModelSpec(name=name, weights="scratch", args=args))
    assert part in str(refusal.value)


def test_gated_attention_is_refused():
    model = make_dense().module
    model.blocks[2].attn.gate = torch.nn.Linear(48, 48)
    with pytest.raises(UnsupportedModelError, match=r"blocks\.2\.attn .*gated"):
        read_shape(model)


def test_a_slimmed_model_is_not_slimmed_again():
    with pytest.raises(UnsupportedModelError, match=r"blocks\.0 is a Stage"):
        read_shape(slimmed("vit_slim", "deit")[1].model)


def test_a_method_that_refuses_says_which_others_do_not():
    shape = make_dense("attention pooling").shape
    assert list(refusals(shape)) == ["merge", "life_regression_merging", "patch_slimming_merging"]
    with pytest.raises(
        UnsupportedModelError, match=r"merged tokens need .*; methods that take this model: .*sit, vit_slim, width, sit_seeded$"
    ):
        check_method("merge", shape)
    check_method("width", shape)


def test_no_method_refuses_a_plain_model():
    assert refusals(make_dense().shape) == {}


PARTS_OF: dict[str, dict[str, Any]] = {
    "packed SwiGLU": {"hidden": 128, "mlp_matrices": 3},
    "SwiGLU, RMSNorm and normed patches": {"hidden": 132, "mlp_matrices": 3, "norm": "rms", "qkv_bias": False, "mlp_bias": False},
    "attention pooling": {"pool": "map", "class_token": True, "prefix_tokens": 0},
    "normalised queries": {"qk_norm": True},
    "norms inside": {"attention_norm": True, "mlp_norm": True},
    "dynamic size": {"image_size": (32, 32), "final_norm": False},
    "parallel attention and MLP": {"whole": True, "shared_norm": True, "branches": 1},
    "parallel branches": {"whole": True, "shared_norm": False, "branches": 2},
    "norms behind": {"norms_behind": True, "branches": 1},
}


@pytest.mark.parametrize("model", PARTS_OF)
def test_parts_are_read(model: str):
    shape = make_dense(model).shape
    assert {name: getattr(shape, name) for name in PARTS_OF[model]} == PARTS_OF[model]


def test_a_dynamic_size_is_switched_off_and_stays_so():
    dense = make_dense("dynamic size")
    assert dense.switched_off == ("dynamic_img_size",)
    assert dense.architecture.args["dynamic_img_size"] is False
    assert not dense.architecture.build().dynamic_img_size
    assert make_dense().switched_off == ()


def test_a_stem_is_priced_once_and_its_norms_apart(monkeypatch: pytest.MonkeyPatch):
    module = make_dense("convolutional stem").module
    shape = read_shape(module)
    assert shape.stem is not None
    # A convolution of 7 x 7 with stride 2 to 64 channels, a pooling, and the projection of 2 x 2 features.
    assert shape.stem.matmuls == 16 * 16 * 64 * 3 * 49 + 16 * 64 * 4 * 144
    assert shape.stem.norms > 0

    def refuse(*_: Any) -> int:
        raise AssertionError("counted again")

    monkeypatch.setattr(stem, "count_flops", refuse)
    assert read_shape(module) == shape


def test_blocks_that_differ_are_described_one_by_one():
    module = make_dense().module
    module.blocks[1].mlp = empty_mlp(module.blocks[1].mlp, 96)
    shape = read_shape(module)
    assert [block.hidden for block in shape.blocks] == [192, 96, 192, 192]
    plan = Plan.dense(shape)
    assert predict(shape, plan).total == count_flops(module, 32)
    assert predict_params(shape, plan) == sum(p.numel() for p in module.parameters())
    plan.check(shape)
    with pytest.raises(RequestError, match=r"block 1: .*exceed the dense 3 x 16 and 96"):
        Plan(blocks=(plan.blocks[0],) * 4).check(shape)
    for name in ("width", "vit_slim"):
        cut = slim(name, dataclasses.replace(make_dense(), module=module, shape=shape)).plan
        assert all(own.hidden <= block.hidden for own, block in zip(cut.blocks, shape.blocks, strict=True))


@pytest.mark.parametrize("model", [name for name, parts in PARTS_OF.items() if "whole" in parts])
def test_blocks_that_run_as_a_whole_are_for_methods_that_drop_tokens_between_them(model: str):
    shape = make_dense(model).shape
    able = ["life_regression", "sit", "life_regression_merging", "sit_seeded"]
    assert [name for name in METHODS if name not in refusals(shape)] == able
    with pytest.raises(UnsupportedModelError, match=rf"blocks\.0: .*; methods that take this model: {', '.join(able)}$"):
        check_method("width", shape)
    with pytest.raises(UnsupportedModelError, match="start 'attention'"):
        METHODS["life_regression"].repair(shape, {"start": "attention"})
    if shape.pool == "token":
        with pytest.raises(RequestError, match="class query"):
            Plan.dense(shape, class_query=True)


def test_blocks_with_their_norms_behind_are_for_methods_of_widths_too():
    shape = make_dense("norms behind").shape
    assert [name for name in METHODS if name not in refusals(shape)] == [
        *("life_regression", "sit", "vit_slim", "width", "life_regression_merging", "sit_seeded")
    ]
    with pytest.raises(UnsupportedModelError, match="start 'attention'"):
        METHODS["life_regression"].repair(shape, {"start": "attention"})
    for patches in METHODS["vit_slim"].ranges["patches"].choices or ():
        if patches != "stay":
            with pytest.raises(UnsupportedModelError, match=f"vit_slim with patches '{patches}' runs attention and MLP"):
                METHODS["vit_slim"].repair(shape, {"patches": patches})


def test_windows_and_joined_tokens_are_priced():
    """As a windowed, hierarchical model has them: half of the blocks on a quarter of the tokens, at twice the width."""
    wide = BlockShape(dim=8, tokens=64, heads=2, head_width=4, hidden=32, window=16)
    deep = wide.replace(dim=16, tokens=16, heads=4, hidden=64, between=Price(matmuls=1000, norms=10))
    plain = make_dense().shape
    shape = ViTShape.of_blocks(
        (wide, deep),
        **{name: getattr(plain, name) for name in ("classes", "classifiers", "pre_norm", "final_norm", "pooled_norm")},
        image_size=(32, 32), grid=(8, 8), patch_inputs=48, prefix_tokens=0, pool="avg",
    )  # fmt: skip
    assert shape.blocks == (wide, deep)
    plan = Plan.dense(shape)
    plan.check(shape)
    products = [4 * b.tokens * b.dim**2 + 2 * b.tokens * 16 * b.dim + 2 * b.tokens * b.dim * b.hidden for b in (wide, deep)]
    flops = predict(shape, plan)
    assert flops.matmuls == 64 * 48 * 8 + sum(products) + 1000 + 10 * 16
    assert flops.norms == 5 * (2 * 64 * 8 + 2 * 16 * 16 + 16 * 16) + 10


def test_a_model_without_a_classifier_has_the_shape_of_its_features():
    dense = create_dense(ModelSpec(name="vit_tiny_patch16_224", weights="scratch", args={**SIZES, "num_classes": 0}))
    assert (dense.shape.classes, dense.shape.classifiers) == (0, 0)
    assert count_flops(dense.module, 32) == predict(dense.shape, Plan.dense(dense.shape)).total


def test_shapes_of_earlier_versions_are_read():
    older = make_dense().shape.to_dict()
    for name in ("norm", "mlp_matrices", "attention_norm", "mlp_norm", "pool_prefix", "stem", "attention_pool", "own_blocks"):
        del older[name]
    assert ViTShape.from_dict(older) == make_dense().shape


def test_one_block_is_too_few_for_life_regression():
    with pytest.raises(UnsupportedModelError, match="at least 2 blocks"):
        METHODS["life_regression"].check(make_dense("deit", depth=1).shape)


@pytest.mark.parametrize(
    ("name", "close"), [("deit_smal_patch16_224", "deit_small_patch16_224"), ("vit_tinny_patch16_224", "vit_tiny_patch16_224")]
)
def test_a_misspelt_name_is_answered_with_close_ones(name: str, close: str):
    with pytest.raises(RequestError, match=f"did you mean .*{close}"):
        create_dense(ModelSpec(name=name, weights="scratch"))


def test_a_name_like_no_other_is_answered_with_an_example():
    with pytest.raises(RequestError, match="deit_small_patch16_224"):
        create_dense(ModelSpec(name="qqqqqqqq", weights="scratch"))


@pytest.mark.parametrize(
    ("args", "what"),
    [
        ({"embed_dim": 50}, "deit_tiny_patch16_224"),
        ({"no_such_argument": 1}, "no_such_argument"),
        ({"img_size": 30}, "not a multiple of the patch size"),
    ],
)
def test_arguments_that_make_no_model_are_refused(args: dict[str, Any], what: str):
    with pytest.raises(RequestError, match=what):
        create_dense(ModelSpec(name="deit_tiny_patch16_224", weights="scratch", args={**SIZES, **args}), classes=10)


def test_scratch_is_the_same_every_time_and_leaves_the_generator_alone():
    spec = ModelSpec(name="deit_tiny_patch16_224", weights="scratch", args=SIZES)
    torch.manual_seed(3)
    one = create_dense(spec, classes=10).module.state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), drawn)
    other = create_dense(spec, classes=10).module.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
