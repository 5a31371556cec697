"""`autoslim models` and `autoslim flops`: what can be slimmed, and what it costs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
from helpers.tiny import config_of, make_dense, slim

from autoslim.core.budget import Budget
from autoslim.export.artifact import save
from autoslim.methods import METHODS
from autoslim.models.registry import FAMILIES, MODULES

Command = Callable[..., tuple[int, str, str]]


def test_models_says_which_methods_take_a_model_and_why_the_others_do_not(autoslim: Command):
    code, out, err = autoslim("models", "vit_*_patch16_siglip_224", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [model["name"] for model in found] == ["vit_base_patch16_siglip_224"]
    merging = ["merge", "life_regression_merging", "patch_slimming_merging"]
    assert found[0]["methods"] == [name for name in METHODS if name not in merging]
    assert list(found[0]["refused"]) == merging
    assert "pooling 'token', 'avg' or 'max'" in found[0]["refused"]["merge"]


def test_models_is_a_table_without_json(autoslim: Command):
    code, out, _ = autoslim("models", "deit_tiny")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["deit_tiny_distilled_patch16_224", "deit_tiny_patch16_224", "2"]
    assert out.splitlines()[1].endswith("  all methods")
    assert out.splitlines()[-1] == "2 of 2 models can be slimmed"


def test_models_of_no_family_are_listed_with_the_reason(autoslim: Command):
    code, out, _ = autoslim("models", "samvit_large_patch16", "--json")
    assert code == 0
    (model,) = json.loads(out)
    assert model["methods"] == []
    assert list(model["refused"]) == list(METHODS)
    assert all("VisionTransformerSAM" in reason for reason in model["refused"].values())


def test_swin_is_taken_by_the_methods_of_widths_and_refused_by_the_others_with_their_reason(autoslim: Command):
    code, out, _ = autoslim("models", "swin_tiny_patch4_window7", "--json")
    assert code == 0
    (model,) = json.loads(out)
    assert model["methods"] == ["vit_slim", "width"]
    assert sorted([*model["methods"], *model["refused"]]) == sorted(METHODS)
    assert all(reason.startswith(name) and "in windows" in reason for name, reason in model["refused"].items())


def test_a_filter_that_fits_nothing_is_refused(autoslim: Command):
    code, _, err = autoslim("models", "no_such")
    assert code == 2
    assert "no vision transformer 'no_such'" in err


@pytest.mark.slow
def test_all_models_are_listed_and_most_can_be_slimmed(autoslim: Command):
    started = time.process_time()
    code, out, _ = autoslim("models", "--json")
    print(f"{time.process_time() - started:.1f} s of one core")
    assert code == 0
    found = json.loads(out)
    assert [model["name"] for model in found] == [name for module in MODULES for name in timm.list_models(module=module)]
    swin = {name for module in MODULES if module.startswith("swin") for name in timm.list_models(module=module)}
    # LV-ViT is registered by autoslim, not by timm.
    others = {model["name"] for model in found} - swin - set(timm.list_models("*lvvit*"))
    taken = {model["name"] for model in found if model["methods"]}
    assert len(others) == 297 and len(others & taken) >= 250
    assert swin <= taken
    for model in found:
        assert sorted([*model["methods"], *model["refused"]]) == sorted(METHODS)


def test_families_have_modules_of_the_list():
    modules = [module for family in FAMILIES for module in family.modules]
    assert set(modules) <= set(MODULES)
    assert len(set(modules)) == len(modules)


ARGS = ("--model-args", "patch_size=8,embed_dim=48,depth=2,num_heads=3", "--image-size", "32")


def test_flops_of_a_model_without_a_classifier_are_those_of_its_features(autoslim: Command):
    facts = {}
    for classes in (None, "0", "10"):
        code, out, err = autoslim(
            "flops", "vit_small_patch14_dinov2", *ARGS, "--json", *(() if classes is None else ("--classes", classes))
        )
        assert (code, err) == (0, "")
        facts[classes] = json.loads(out)
        assert facts[classes]["flops"] == facts[classes]["predicted"]
    assert facts[None] == facts["0"]
    assert facts["10"]["flops"] - facts["0"]["flops"] == 48 * 10
    assert (facts["0"]["classes"], facts["10"]["classes"]) == (0, 10)
    assert "features without a classifier (--classes adds one)" in autoslim("flops", "vit_small_patch14_dinov2", *ARGS)[1]


def test_flops_names_the_flag_of_arguments_that_cannot_be_read(autoslim: Command):
    code, _, err = autoslim("flops", "deit_tiny_patch16_224", "--model-args", "depth")
    assert code == 2
    assert "--model-args: 'depth' is not of the form name=value" in err


def test_flops_of_a_slimmed_model_take_no_arguments(autoslim: Command, tmp_path: Path):
    dense = make_dense()
    finished = slim("width", dense)
    save(tmp_path / "model", finished.model, config_of("width", dense, finished))
    assert autoslim("flops", str(tmp_path / "model"))[0] == 0
    for flags in (("--classes", "10"), ("--model-args", "depth=2"), ("--image-size", "32")):
        code, _, err = autoslim("flops", str(tmp_path / "model"), *flags)
        assert code == 2
        assert f"{flags[0]}: {tmp_path / 'model'} is a slimmed model" in err


@pytest.mark.slow
@pytest.mark.short
def test_plan_and_flops_agree_on_a_model_without_a_classifier_or_a_fixed_size(autoslim: Command):
    tiny = ("--model-args", "patch_size=4,embed_dim=32,depth=4,num_heads=2", "--image-size", "16")
    code, out, err = autoslim(
        *("plan", "--model", "vit_intern300m_patch14_448", *tiny, "--from-scratch", "--data", "digits"),
        *("--flops", "60%", "--space", "smoke"),
    )
    assert code == 0, err
    assert "16x16, 10 classes; dynamic_img_size is switched off, for a fixed cost" in out
    counted = json.loads(autoslim("flops", "vit_intern300m_patch14_448", *tiny, "--classes", "10", "--json")[1])["flops"]
    assert f"Budget    60%: {Budget.parse('60%').resolve(counted):,} multiply-accumulates" in out
