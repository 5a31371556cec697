"""Reads the `ViTShape` of a timm model, and refuses a model that cannot be slimmed, naming the part that is unsupported."""

from __future__ import annotations

from typing import Any

from timm.layers import Attention, LayerNorm, Mlp, PatchEmbed
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from autoslim.core.shape import ViTShape
from autoslim.errors import UnsupportedModelError

_POOLS = ("token", "avg", "avgmax", "max")


def read_shape(model: nn.Module) -> ViTShape:
    """The shape of `model`. Raises UnsupportedModelError unless it is a plain, dense ViT, DeiT or distilled DeiT of timm."""
    if type(model) not in (VisionTransformer, VisionTransformerDistilled):
        raise UnsupportedModelError(f"{type(model).__name__} is not a plain timm ViT, DeiT or distilled DeiT")
    vit: Any = model
    _check_stem_and_head(vit)
    blocks = list(vit.blocks)
    for index, block in enumerate(blocks):
        _check_block(block, index)
    first = blocks[0]
    heads = [vit.head, vit.head_dist] if isinstance(vit, VisionTransformerDistilled) else [vit.head]
    kernel: tuple[int, int] = vit.patch_embed.patch_size
    return ViTShape(
        image_size=tuple(vit.patch_embed.img_size),
        grid=tuple(vit.patch_embed.grid_size),
        patch_inputs=vit.patch_embed.proj.in_channels * kernel[0] * kernel[1],
        prefix_tokens=vit.num_prefix_tokens,
        depth=len(blocks),
        dim=vit.embed_dim,
        heads=first.attn.num_heads,
        head_width=first.attn.head_dim,
        hidden=first.mlp.fc1.out_features,
        classes=vit.num_classes,
        classifiers=len(heads),
        pool=vit.global_pool,
        pre_norm=_is_norm(vit.norm_pre, "norm_pre"),
        final_norm=_is_norm(vit.norm, "norm"),
        pooled_norm=_is_norm(vit.fc_norm, "fc_norm"),
        qk_norm=_is_norm(first.attn.q_norm, "blocks.0.attn.q_norm"),
        params=sum(parameter.numel() for parameter in model.parameters()),
        qkv_bias=first.attn.qkv.bias is not None,
        mlp_bias=first.mlp.fc1.bias is not None,
        # Without any prefix token there is nothing to tell apart.
        class_token=vit.num_prefix_tokens == 0 or vit.cls_token is not None,
    )


def _check_stem_and_head(vit: Any) -> None:
    if type(vit.patch_embed) is not PatchEmbed or not isinstance(vit.patch_embed.norm, nn.Identity):
        raise UnsupportedModelError(
            f"patch_embed is a {type(vit.patch_embed).__name__} with its own norm or stem, not a plain PatchEmbed"
        )
    if vit.patch_embed.proj.in_channels != 3:
        raise UnsupportedModelError(
            f"patch_embed takes {vit.patch_embed.proj.in_channels} channels; only RGB images are supported"
        )
    if vit.dynamic_img_size or getattr(vit.patch_embed, "dynamic_img_pad", False):
        raise UnsupportedModelError("dynamic_img_size: a FLOPs budget needs one image size")
    if not isinstance(vit.patch_drop, nn.Identity):
        raise UnsupportedModelError("patch_drop: random patch dropout would change the token counts; create the model without it")
    if vit.attn_pool is not None or vit.global_pool not in _POOLS:
        raise UnsupportedModelError(f"pooling {vit.global_pool!r} is not one of {', '.join(_POOLS)}")
    if vit.num_prefix_tokens == 0 and vit.global_pool == "token":
        raise UnsupportedModelError("pooling 'token' without a class token")
    if not isinstance(vit.head, nn.Linear):
        raise UnsupportedModelError(f"head is a {type(vit.head).__name__}, not a linear classifier")


def _check_block(block: nn.Module, index: int) -> None:
    if type(block) is not Block:
        raise UnsupportedModelError(f"blocks.{index} is a {type(block).__name__}, not timm's plain Block")
    part: Any = block
    if type(part.attn) is not Attention or part.attn.gate is not None:
        raise UnsupportedModelError(f"blocks.{index}.attn is a {type(part.attn).__name__} (or gated), not timm's plain Attention")
    if type(part.mlp) is not Mlp:
        raise UnsupportedModelError(f"blocks.{index}.mlp is a {type(part.mlp).__name__}, not timm's plain Mlp")
    for name, norm in (("attn.norm", part.attn.norm), ("mlp.norm", part.mlp.norm)):
        if not isinstance(norm, nn.Identity):
            raise UnsupportedModelError(f"blocks.{index}.{name}: a norm inside the sub-layer is not supported")
    for name in ("norm1", "norm2"):
        if not _is_norm(getattr(part, name), f"blocks.{index}.{name}"):
            raise UnsupportedModelError(f"blocks.{index}.{name} is missing")


def _is_norm(module: nn.Module, name: str) -> bool:
    if isinstance(module, nn.Identity):
        return False
    if not isinstance(module, LayerNorm | nn.LayerNorm) or not module.elementwise_affine:
        raise UnsupportedModelError(f"{name} is a {type(module).__name__}, not an affine LayerNorm")
    return True
