"""What is read off a dense model, and which parts are refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.tiny import MODELS, SIZES, make_dense, slimmed

from autoslim.core.job import ModelSpec
from autoslim.errors import RequestError, UnsupportedModelError
from autoslim.methods import METHODS
from autoslim.models import create_dense, read_shape


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
    "swin": ("swin_tiny_patch4_window7_224", {}, "SwinTransformer"),
    "eva": ("eva02_tiny_patch14_224", {}, "Eva"),
    "siglip's pool": ("vit_base_patch16_siglip_224", {"depth": 1}, "pooling 'map'"),
    "SwiGLU": ("vit_giant_patch14_dinov2", {"depth": 1, "embed_dim": 48, "num_heads": 3, "num_classes": 10}, "blocks.0.mlp"),
    "patch dropout": ("vit_tiny_patch16_224", {"depth": 1, "patch_drop_rate": 0.5}, "patch_drop"),
    "dynamic size": ("vit_tiny_patch16_224", {"depth": 1, "dynamic_img_size": True}, "dynamic_img_size"),
    "one channel": ("vit_tiny_patch16_224", {"depth": 1, "in_chans": 1}, "patch_embed takes 1 channels"),
    "norm inside the MLP": ("vit_tiny_patch16_224", {"depth": 1, "scale_mlp_norm": True}, "blocks.0.mlp.norm"),
    "norm inside the attention": ("vit_tiny_patch16_224", {"depth": 1, "scale_attn_norm": True}, "blocks.0.attn.norm"),
    "RMS norm": ("vit_tiny_patch16_224", {"depth": 1, "norm_layer": "rmsnorm"}, "norm"),
    "parallel blocks": ("vit_small_patch16_18x2_224", {"depth": 1}, "blocks.0"),
    "hybrid stem": ("vit_tiny_r_s16_p8_224", {}, "patch_embed"),
    "no classifier": ("vit_tiny_patch16_224", {"depth": 1, "num_classes": 0}, "head"),
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


def test_normalised_queries_are_for_life_regression_only():
    shape = make_dense("deit", qk_norm=True).shape
    METHODS["life_regression"].check(shape)
    with pytest.raises(UnsupportedModelError, match="q_norm"):
        METHODS["vit_slim"].check(shape)


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
