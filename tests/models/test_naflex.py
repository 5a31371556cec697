"""NaFlex ViTs at one image size: a plain ViT that computes what timm's model does."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from helpers.tiny import CLASSES, config_of, enliven, images, logits, slim
from timm.models.naflexvit import NaFlexVit
from torch import nn

from autoslim.core.job import ModelSpec
from autoslim.core.plan import Plan
from autoslim.cost import count_flops, predict, predict_params
from autoslim.errors import UnsupportedModelError
from autoslim.export.artifact import load, save
from autoslim.methods import refusals
from autoslim.models import DenseModel, create_dense, read_shape, write_folder
from autoslim.models.naflex import FixedSizeViT

SIZES: dict[str, Any] = {"patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}
NAMES = {
    "average and registers": "naflexvit_base_patch16_par_gap",
    "positions for rows and columns": "naflexvit_base_patch16_parfac_gap",
    "attention pooling": "naflexvit_base_patch16_siglip",
    "class token without a norm": "naflexvit_base_patch16_radio_v3",
}
each_kind = pytest.mark.parametrize("kind", NAMES)


def timms(kind: str, **own: Any) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(NAMES[kind], num_classes=10, **{**SIZES, **own}).eval()
    enliven(model)
    return model


def dense_of(kind: str, tmp_path: Path, *, size: tuple[int, int]) -> tuple[DenseModel, nn.Module]:
    """autoslim's model with the weights of timm's, whose table of positions is of another grid."""
    model = timms(kind)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    spec = ModelSpec(name=NAMES[kind], weights=str(tmp_path / "weights.pth"), args=SIZES, image_size=size)
    return create_dense(spec, classes=10), model


@pytest.mark.parametrize("size", [(32, 32), (48, 24)], ids=["square", "tall"])
@each_kind
def test_it_computes_what_timms_model_does_at_that_size(kind: str, size: tuple[int, int], tmp_path: Path):
    dense, model = dense_of(kind, tmp_path, size=size)
    assert isinstance(dense.module, FixedSizeViT)
    assert (dense.shape.image_size, dense.resampled, dense.switched_off) == (size, False, ())
    assert not any(parameter.is_meta for parameter in dense.module.parameters())
    torch.testing.assert_close(logits(dense.module, images(size=size)), logits(model, images(size=size)), rtol=1e-4, atol=1e-5)


@each_kind
def test_its_cost_is_predicted_to_the_integer(kind: str, tmp_path: Path):
    dense, _ = dense_of(kind, tmp_path, size=(32, 32))
    plan = Plan.dense(dense.shape)
    assert count_flops(dense.module, (32, 32)) == predict(dense.shape, plan).total
    assert dense.parameters == predict_params(dense.shape, plan) == dense.shape.params
    assert set(refusals(dense.shape)) <= {"merge", "life_regression_merging", "patch_slimming_merging"}


@each_kind
def test_a_folder_in_timms_format_is_read_by_timm_and_again(kind: str, tmp_path: Path):
    dense, _ = dense_of(kind, tmp_path, size=(32, 48))
    folder = tmp_path / "base"
    write_folder(folder, dense.module, dense.architecture, preprocessing=dense.preprocessing, classes=CLASSES)
    again = create_dense(ModelSpec(name=str(folder)))
    assert again.shape == dense.shape == read_shape(dense.module)
    assert again.is_ready_for(CLASSES)
    x = images(size=(32, 48))
    assert torch.equal(logits(again.module, x), logits(dense.module, x))
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert type(theirs) is NaFlexVit
    torch.testing.assert_close(logits(theirs, x), logits(dense.module, x), rtol=1e-4, atol=1e-5)


def test_without_a_size_it_is_that_of_the_checkpoint():
    args = {**SIZES, "patch_size": 96}
    dense = create_dense(ModelSpec(name=NAMES["attention pooling"], weights="scratch", args=args), classes=10)
    assert (dense.shape.image_size, dense.shape.grid) == ((384, 384), (4, 4))


def test_another_size_of_a_stored_model_resamples_its_positions(tmp_path: Path):
    dense, _ = dense_of("average and registers", tmp_path, size=(32, 32))
    folder = tmp_path / "base"
    write_folder(folder, dense.module, dense.architecture, preprocessing=dense.preprocessing, classes=CLASSES)
    larger = create_dense(ModelSpec(name=str(folder), image_size=(48, 48)))
    assert larger.shape.grid == (6, 6)
    assert larger.architecture.args["pos_embed_grid_size"] == [6, 6]


def test_a_slimmed_one_is_saved_and_loaded(tmp_path: Path):
    dense, _ = dense_of("average and registers", tmp_path, size=(32, 32))
    finished = slim("merge", dense)
    save(tmp_path / "slimmed", copy.deepcopy(finished.model), config_of("merge", dense, finished))
    assert torch.equal(logits(load(tmp_path / "slimmed"), images()), logits(finished.model, images()))


@pytest.mark.parametrize(
    ("args", "part"),
    [
        ({"rope_type": "axial"}, "rope: rotary positions"),
        ({"embed_proj_type": "conv"}, "embeds: only a linear projection"),
        ({"embed_norm_layer": "layernorm"}, "embeds: a norm of the patches"),
        ({"patch_drop_rate": 0.5}, "patch_drop: random patch dropout"),
        ({"attn_type": "eva"}, r"blocks\.0 is a EvaBlock"),
    ],
)
def test_what_cannot_be_slimmed_is_refused_by_the_name_of_its_part(args: dict[str, Any], part: str):
    spec = ModelSpec(name=NAMES["average and registers"], weights="scratch", args={**SIZES, **args}, image_size=(32, 32))
    with pytest.raises(UnsupportedModelError, match=part):
        create_dense(spec, classes=10)


def test_a_size_that_patches_do_not_divide_is_refused():
    spec = ModelSpec(name=NAMES["average and registers"], weights="scratch", args=SIZES, image_size=(36, 32))
    with pytest.raises(UnsupportedModelError, match="image size 36x32 is not a multiple of the patch size 8x8"):
        create_dense(spec, classes=10)
