"""FLOPs of dense models as timm's own table has them, and matrix products as torch counts them on the real sizes."""

from __future__ import annotations

import functools

import pytest
import timm
import torch

from autoslim.core.plan import Plan
from autoslim.core.shape import ViTShape
from autoslim.cost import count_flops_torch, predict
from autoslim.models import read_shape

# infer_gmacs in results/benchmark-infer-amp-nchw-pt240-cu124-rtx4090.csv of huggingface/pytorch-image-models; from beit3 on in
# benchmark-infer-amp-nchw-pt291-cu128-4090.csv there. Both count what fvcore does, unfused attention and LayerNorm included.
PUBLISHED = {
    "deit_small_patch16_224": 4.61,
    "vit_giant_patch14_dinov2": 1784.2,
    "vit_base_patch16_siglip_224": 17.73,
    "vit_large_patch16_siglip_256": 81.34,
    "vit_so400m_patch14_siglip_224": 110.26,
    "vit_tiny_r_s16_p8_224": 0.44,
    "vit_small_r26_s32_224": 3.56,
    "vit_small_r26_s32_384": 10.43,
    "vit_base_r50_s16_224": 21.66,
    "vit_large_r50_s32_224": 19.58,
    "vit_base_mci_224": 17.73,
    "beit3_base_patch16_224": 17.63,
    "beit3_large_patch16_224": 61.72,
    "aimv2_large_patch14_224": 82.3,
    "aimv2_huge_patch14_224": 179.01,
    "vit_intern300m_patch14_448": 362.05,
    "vit_small_patch16_dinov3": 6.26,
    "vit_small_plus_patch16_dinov3_qkvb": 8.11,
    "vit_large_patch16_dinov3": 82.43,
    "eva02_tiny_patch14_336": 4.68,
    "eva02_base_patch16_clip_224": 17.62,
    "eva02_large_patch14_448": 362.33,
    "eva_giant_patch14_224": 267.18,
    "vit_small_patch16_rope_mixed_ape_224": 4.61,
    "vit_base_patch16_rope_reg1_gap_256": 23.22,
    "vit_pe_core_tiny_patch16_384": 4.74,
    "vit_pe_core_large_patch14_336": 192.33,
    "vit_pe_spatial_small_patch16_512": 31.8,
    "beit_base_patch16_224": 17.58,
    "beitv2_large_patch16_224": 61.6,
    # From the first of the two tables.
    "swin_tiny_patch4_window7_224": 4.51,
    "swin_small_patch4_window7_224": 8.77,
    "swin_base_patch4_window7_224": 15.47,
    "swin_large_patch4_window7_224": 34.53,
    "swin_base_patch4_window12_384": 47.19,
    "swin_large_patch4_window12_384": 104.08,
    "swin_s3_tiny_224": 4.64,
    "swin_s3_small_224": 9.43,
    "swin_s3_base_224": 13.69,
    "swinv2_tiny_window8_256": 5.96,
    "swinv2_tiny_window16_256": 6.68,
    "swinv2_small_window8_256": 11.58,
    "swinv2_small_window16_256": 12.82,
    "swinv2_base_window12_192": 11.9,
    "swinv2_base_window8_256": 20.37,
    "swinv2_base_window16_256": 22.02,
    "swinv2_base_window12to16_192to256": 22.02,
    "swinv2_base_window12to24_192to384": 55.25,
    "swinv2_large_window12_192": 26.17,
    "swinv2_large_window12to16_192to256": 47.81,
    "swinv2_large_window12to24_192to384": 116.15,
}
CHEAP = (
    "swin_tiny_patch4_window7_224",
    "vit_giant_patch14_dinov2",
    "vit_base_patch16_siglip_224",
    "vit_tiny_r_s16_p8_224",
    "beit3_base_patch16_224",
    "aimv2_large_patch14_224",
    "vit_small_plus_patch16_dinov3_qkvb",
    "eva02_base_patch16_clip_224",
    "vit_pe_core_tiny_patch16_384",
    "beit_base_patch16_224",
)
each_published = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in CHEAP else pytest.mark.slow) for n in PUBLISHED]
)


@functools.cache
def model_of(name: str) -> tuple[torch.nn.Module, ViTShape]:
    arguments = {"dynamic_img_size": False} if "intern" in name or "dinov3" in name else {}
    with torch.device("meta"):
        model = timm.create_model(name, **arguments)
    return model, read_shape(model)


@each_published
def test_flops_are_those_of_timms_table(name: str):
    shape = model_of(name)[1]
    assert round(predict(shape, Plan.dense(shape)).total / 1e9, 2) == pytest.approx(PUBLISHED[name], abs=0.0051)


@pytest.mark.slow
@each_published
def test_torch_counts_the_same_matrix_products(name: str):
    model, shape = model_of(name)
    assert count_flops_torch(model, shape.image_size) == predict(shape, Plan.dense(shape)).matmuls
