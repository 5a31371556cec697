"""Swin: open it computes what timm's model does, its windows are priced as they are counted, and only widths are slimmed."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from helpers.tiny import config_of, enliven, images, logits, make_dense, make_spec, slim
from torch import nn

from autoslim.core.constraints import CostLimits
from autoslim.core.job import ModelSpec
from autoslim.core.plan import Plan
from autoslim.core.recipe import TrainingSettings
from autoslim.core.result import Phase
from autoslim.core.shape import ViTShape
from autoslim.cost import count_flops, predict, predict_params
from autoslim.errors import ExportError, RequestError, UnsupportedModelError, WeightsError
from autoslim.export.profiling import profile_parts
from autoslim.export.profiling.calibration import request_of
from autoslim.export.timm_form import timm_architecture, write
from autoslim.methods import METHODS, check_method, refusals
from autoslim.methods.layers.backbone import install
from autoslim.methods.layers.narrow import narrow_attention
from autoslim.methods.layers.sublayer import drop_attention, drop_mlp
from autoslim.methods.layers.token_trunk import Trunk, blocks_of
from autoslim.methods.unit_removal.gates import gate_widths
from autoslim.models import create_dense, load_weights, read_shape
from autoslim.models.registry import family_of
from autoslim.report.token_survival import follow
from autoslim.training.optimizer import make_optimizer
from autoslim.training.phase_schedule import PhaseSchedule

SPEC = make_spec("windows")
VERSIONS = ("windows", "windows and norms behind")
each_version = pytest.mark.parametrize("name", VERSIONS)


def timms(name: str = "windows", **args: Any) -> nn.Module:
    """timm's own model, with weights that are felt."""
    spec = make_spec(name, **args)
    with torch.random.fork_rng():
        model = timm.create_model(spec.name, num_classes=10, **spec.args).eval()
    enliven(model)
    return model


KINDS: dict[str, dict[str, Any]] = {
    "shifted and whole windows": {},
    "one window for all": {"window_size": 8},
    "windows that are not square": {"window_size": (2, 4)},
    "windows of each stage": {"window_size": ((4, 4), (2, 2))},
    "always cut": {"always_partition": True},
    "odd numbers of tokens": {"img_size": 36, "window_size": ((3, 3), (5, 5))},
    "heads of another width": {"head_dim": 8},
    "one stage": {"depths": (3,), "num_heads": (3,)},
    "no bias": {"qkv_bias": False},
    "not square": {"img_size": (32, 64)},
    "maximum": {"global_pool": "max"},
}


SECOND: dict[str, dict[str, Any]] = {
    **{kind: args for kind, args in KINDS.items() if "head_dim" not in args},
    "pretrained on other windows": {"pretrained_window_sizes": (2, 0)},
}
"""Swin V2 has no heads of another width, and positions that another size of windows was trained on."""


@pytest.mark.slow
@pytest.mark.short
@pytest.mark.parametrize(
    ("name", "kind"), [*(("windows", kind) for kind in KINDS), *(("windows and norms behind", kind) for kind in SECOND)]
)
def test_open_it_computes_what_timms_model_does_at_the_predicted_cost(name: str, kind: str):
    model = timms(name, **{**SECOND, **KINDS}[kind])
    family, shape, x = family_of(model), read_shape(model), images(2, size=read_shape(model).image_size)
    expected, features, names = logits(model, x), model.forward_features(x), {n: v.clone() for n, v in model.state_dict().items()}
    opened = family.open(model)
    if name == "windows":
        assert torch.equal(logits(opened, x), expected)
        assert torch.equal(opened.forward_features(x), features)
    # Swin V2's scale is applied to queries and keys instead of their products.
    torch.testing.assert_close(logits(opened, x), expected, rtol=1e-4, atol=1e-5)
    pooled = features.amax((1, 2)) if kind == "maximum" else features.mean((1, 2))
    torch.testing.assert_close(opened.forward_head(features, pre_logits=True), pooled)
    back = family.timm_state(opened)
    assert back.keys() == names.keys()
    assert all(torch.equal(back[name], names[name]) for name in names)
    plan = Plan.dense(shape)
    plan.check(shape)
    assert count_flops(opened, shape.image_size) == predict(shape, plan).total
    assert predict_params(shape, plan) == sum(p.numel() for p in opened.parameters())
    assert read_shape(opened) == shape


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (
            {"img_size": 48},
            r"blocks\.2: windows of 4x4 do not cover its 6x6 tokens exactly; allowed: another image size, or",
        ),
        ({"global_pool": "catavgmax"}, "pooling 'catavgmax' is not one of avg, max, avgmax"),
        ({"in_chans": 1}, "patch_embed takes 1 channels"),
    ],
)
def test_what_cannot_be_slimmed_is_refused_by_the_name_of_its_part(args: dict[str, Any], part: str):
    with pytest.raises(UnsupportedModelError, match=part):
        make_dense("windows", **args)


@each_version
def test_any_image_size_is_switched_off(name: str):
    dense = make_dense(name, dynamic_img_size=True)
    assert dense.switched_off == ("dynamic_img_size", "strict_img_size")
    assert dense.shape == make_dense(name).shape


@each_version
def test_methods_that_change_tokens_refuse_by_name_and_say_which_do_not(name: str):
    shape = make_dense(name).shape
    assert shape.windowed
    assert refusals(shape).keys() == METHODS.keys() - {"vit_slim", "width"}
    for method in refusals(shape):
        with pytest.raises(
            UnsupportedModelError, match=rf"^{method} .* in windows .*; methods that take this model: vit_slim, width$"
        ):
            check_method(method, shape)
    with pytest.raises(UnsupportedModelError, match=r"vit_slim with patches 'down' .* in windows"):
        METHODS["vit_slim"].repair(shape, {"patches": "down"})


def test_what_needs_tokens_that_go_is_refused_by_name(tmp_path: Path):
    dense = make_dense("windows")
    with pytest.raises(RequestError, match="class query needs pooling 'token'"):
        Plan.dense(dense.shape, class_query=True)
    with pytest.raises(UnsupportedModelError, match="latency table is measured on equal blocks"):
        profile_parts.measure_table(request_of(dense, CostLimits(latency_ms=1.0), [], class_query=False))
    with pytest.raises(UnsupportedModelError, match="in windows, so that all patches take part in every block"):
        follow(slim("width", dense).model, images(2), dense.shape)
    with pytest.raises(UnsupportedModelError, match="attention is computed in windows takes no attention mask"):
        dense.module.forward_features(images(), attn_mask=torch.zeros(64, 64))


@each_version
def test_a_head_that_stays_keeps_its_own_bias(name: str):
    dense = make_dense(name)
    masked, cut = copy.deepcopy(dense.module), copy.deepcopy(dense.module)
    for gated, block in zip(blocks_of(masked), blocks_of(cut), strict=True):
        zeta_HK, _ = gate_widths(gated)
        zeta_HK.data[0] = 0.0
        left = range(1, block.attn.num_heads)
        kept_HK = torch.arange(block.attn.head_dim).expand(len(left), -1)
        whole = block.attn
        block.attn = narrow_attention(whole, kept_HK, torch.ones(kept_HK.shape), heads=left)
        was, now = (attention.positions.bias(None, None, 16) for attention in (whole, block.attn))
        # A network of fewer outputs may add its terms up in another order.
        torch.testing.assert_close(now, was[:, 1:])
    torch.testing.assert_close(logits(cut, images()), logits(masked, images()), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits(cut, images()), logits(dense.module, images()), atol=1e-3)


@each_version
def test_a_sublayer_that_is_gone_computed_what_is_left_of_it(name: str):
    """Where norms are behind the sub-layers, they still shift what a sub-layer without units gives them."""
    dense = make_dense(name)
    masked, cut = copy.deepcopy(dense.module), copy.deepcopy(dense.module)
    for number, (gated, block) in enumerate(zip(blocks_of(masked), blocks_of(cut), strict=True)):
        zeta_HK, zeta_F = gate_widths(gated)
        if number in (1, 2):
            zeta_HK.data.zero_()
            drop_attention(block)
        if number in (0, 2):
            zeta_F.data.zero_()
            drop_mlp(block)
    torch.testing.assert_close(logits(cut, images()), logits(masked, images()), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(cut, images()), logits(dense.module, images()), atol=1e-3)


@each_version
def test_positions_have_no_weight_decay(name: str):
    model = make_dense(name).module
    optimizer = make_optimizer(
        model, TrainingSettings(), PhaseSchedule(phase=Phase.FINETUNE, seed_name="decay", steps=1, first_epoch=0)
    )
    plain = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]}
    assert {id(parameter) for block in model.blocks for parameter in block.attn.positions.parameters()} <= plain


@each_version
def test_weights_of_the_released_checkpoints_load(name: str):
    """They have the layer that joins tokens at the end of a stage, buffers among the weights, and another name of the head."""
    source = timms(name)
    released = {
        own.replace("layers.1.downsample", "layers.0.downsample").replace("head.fc", "head"): value
        for own, value in source.state_dict().items()
    }
    released |= {"layers.0.blocks.1.attn_mask": torch.zeros(4, 16, 16)}
    released |= {f"layers.{n}.blocks.0.attn.relative_position_index": torch.zeros(16, 16, dtype=torch.long) for n in (0, 1)}
    loaded = timm.create_model(make_spec(name).name, num_classes=10, **SPEC.args).eval()
    assert load_weights(loaded, {"model": released}, source="released")
    assert torch.equal(logits(loaded, images()), logits(source, images()))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_biases_of_another_window_are_interpolated(tmp_path: Path):
    file = tmp_path / "weights.pth"
    torch.save(timms().state_dict(), file)
    args = {**SPEC.args, "img_size": 64, "window_size": 8}
    resampled = create_dense(ModelSpec(name=SPEC.name, weights=str(file), args=args), classes=10)
    assert (resampled.trained, resampled.head_fits, resampled.resampled) == (True, True, True)
    same = create_dense(ModelSpec(name=SPEC.name, weights=str(file), args=SPEC.args), classes=10)
    assert not same.resampled


@each_version
def test_weights_of_a_deeper_model_are_refused(name: str, tmp_path: Path):
    file = tmp_path / "weights.pth"
    torch.save(timms(name, depths=(2, 3)).state_dict(), file)
    with pytest.raises(WeightsError, match="do not fit the model"):
        create_dense(make_spec(name).replace(weights=str(file)), classes=10)


@each_version
def test_timm_loads_what_was_not_slimmed_and_cannot_say_the_rest(name: str, tmp_path: Path):
    dense = make_dense(name)
    cut = slim("width", dense)
    whole = copy.deepcopy(dense.module)
    install(whole, Trunk(blocks_of(whole), {}))
    config = config_of("width", dense, cut)
    write(whole, config.replace(plan=Plan.dense(dense.shape)), tmp_path / "timm")
    there = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    torch.testing.assert_close(logits(there, images()), logits(dense.module, images()), rtol=1e-4, atol=1e-5)
    assert there.pretrained_cfg["classifier"] == "head.fc"
    with pytest.raises(ExportError, match="no widths of single blocks"):
        timm_architecture(config)


def any_plan(shape: ViTShape, source: random.Random) -> Plan:
    dense = Plan.dense(shape)
    narrowed = [
        block.replace(
            heads=(heads := source.randint(0, own.heads)),
            head_width=(own.head_width if own.tied_dims else source.randint(1, own.head_width)) if heads else 0,
            hidden=source.randint(0, own.hidden),
        )
        for own, block in zip(shape.blocks, dense.blocks, strict=True)
    ]
    return dense.replace(blocks=tuple(narrowed))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["swin_tiny_patch4_window7_224", "swin_s3_tiny_224", "swin_base_patch4_window12_384", "swinv2_tiny_window16_256"]
)
def test_the_real_size_costs_what_fvcore_counts(name: str):
    dense, source = create_dense(ModelSpec(name=name, weights="scratch")), random.Random(name)
    for plan in (Plan.dense(dense.shape), *(any_plan(dense.shape, source) for _ in range(2))):
        model = METHODS["width"].build(copy.deepcopy(dense.module), dense.shape, plan, {})
        assert count_flops(model, dense.shape.image_size) == predict(dense.shape, plan).total
        assert predict_params(dense.shape, plan) == sum(p.numel() for p in model.parameters())


@each_version
def test_the_sizes_of_the_tests_have_all_there_is_of_windows(name: str):
    """Shifted windows, a stage that is one window, and a layer between the stages."""
    blocks = make_dense(name).module.blocks
    assert [any(block.windows.shift) for block in blocks] == [False, True, False, False]
    assert [hasattr(block, "merging") for block in blocks] == [False, False, True, False]
