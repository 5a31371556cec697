"""timm's `VisionTransformer`: ViT, DeiT, DINOv2, CLIP, SigLIP, AIMv2, BEiT-3, hybrids; and the distilled DeiT."""

from __future__ import annotations

from typing import Any, ClassVar

from timm.layers import AttentionPoolLatent, HybridEmbed, PatchEmbed
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from autoslim.core.shape import AttentionPool, BlockShape, Price, ViTShape
from autoslim.cost.flops import NORMS
from autoslim.errors import UnsupportedModelError
from autoslim.models.blocks import has_norm, norm_kind, read_block
from autoslim.models.family import Family
from autoslim.models.stem import price_of

_POOLS = ("token", "avg", "avgmax", "max", "map")


class PlainViT(Family):
    """A stack of equal blocks on all tokens, with absolute positions. `stems` are the patch embeddings that it may have."""

    classes: ClassVar[tuple[type[nn.Module], ...]] = (VisionTransformer, VisionTransformerDistilled)
    modules: ClassVar[tuple[str, ...]] = ("vision_transformer", "deit", "vision_transformer_hybrid")
    classifiers: ClassVar[tuple[str, ...]] = ("head.", "head_dist.")
    stems: ClassVar[tuple[type[nn.Module], ...]] = (PatchEmbed, HybridEmbed)

    def fixed_arguments(self, model: nn.Module, image_size: Any) -> dict[str, Any]:
        vit: Any = model
        return dict.fromkeys(_is_dynamic(vit), False)

    def read_shape(self, model: nn.Module) -> ViTShape:
        vit: Any = model
        self._check_ends(vit)
        tokens = vit.patch_embed.num_patches + vit.num_prefix_tokens
        blocks = [self.read_block(block, f"blocks.{index}", tokens) for index, block in enumerate(self.blocks_of(model))]
        first = blocks[0]
        heads = [vit.head, vit.head_dist] if isinstance(vit, VisionTransformerDistilled) else [vit.head]
        return ViTShape.of_blocks(
            blocks,
            image_size=tuple(vit.patch_embed.img_size),
            grid=tuple(vit.patch_embed.grid_size),
            prefix_tokens=vit.num_prefix_tokens,
            classes=vit.num_classes,
            classifiers=sum(isinstance(head, nn.Linear) for head in heads),
            pool=vit.global_pool,
            pool_prefix=self.pool_reads_prefix(vit),
            attention_pool=_attention_pool(vit, first),
            **{
                # Some of timm's classes have fewer slots than others.
                flag: has_norm(getattr(vit, name, nn.Identity()), name, first.norm)
                for flag, name in (("pre_norm", "norm_pre"), ("final_norm", "norm"), ("pooled_norm", "fc_norm"))
            },
            params=sum(parameter.numel() for parameter in model.parameters()),
            # Without any prefix token there is nothing to tell apart.
            class_token=vit.num_prefix_tokens == 0 or vit.cls_token is not None,
            **_stem(vit),
        )

    def blocks_of(self, model: nn.Module) -> list[nn.Module]:
        """The blocks as they are in the open model."""
        return list(model.blocks)  # type: ignore[arg-type]

    def read_block(self, block: nn.Module, name: str, tokens: int) -> BlockShape:
        """The shape of one of `blocks_of`. Raises UnsupportedModelError that names the part of it that no method can slim."""
        return read_block(block, name, tokens)

    def pool_reads_prefix(self, vit: Any) -> bool:
        """Whether pooling reads prefix tokens, too."""
        return bool(vit.pool_include_prefix)

    def embed(self, model: nn.Module, images_B3HW: Tensor) -> Tensor:
        vit: Any = model
        embedded: Any = vit._pos_embed(vit.patch_embed(images_B3HW))
        # timm's `Eva` returns its rotary positions, too, which an open model has in its blocks.
        x_BTD: Tensor = vit.norm_pre(embedded[0] if isinstance(embedded, tuple) else embedded)
        return x_BTD

    def _check_ends(self, vit: Any) -> None:
        if type(vit.patch_embed) not in self.stems:
            allowed = " or ".join(stem.__name__ for stem in self.stems)
            raise UnsupportedModelError(f"patch_embed is a {type(vit.patch_embed).__name__}, not a {allowed}")
        channels = vit.patch_embed.proj.in_channels if isinstance(vit.patch_embed, PatchEmbed) else vit.in_chans
        if channels != 3:
            raise UnsupportedModelError(f"patch_embed takes {channels} channels; only RGB images are supported")
        if _is_dynamic(vit):
            raise UnsupportedModelError("dynamic_img_size: a FLOPs budget needs one image size")
        if not isinstance(getattr(vit, "patch_drop", None), nn.Identity | None):
            raise UnsupportedModelError(
                "patch_drop: random patch dropout would change the token counts; create the model without it"
            )
        if vit.global_pool not in _POOLS:
            raise UnsupportedModelError(f"pooling {vit.global_pool!r} is not one of {', '.join(_POOLS)}")
        if vit.num_prefix_tokens == 0 and vit.global_pool == "token":
            raise UnsupportedModelError("pooling 'token' without a class token")
        if not isinstance(vit.head, nn.Linear | nn.Identity):
            raise UnsupportedModelError(f"head is a {type(vit.head).__name__}, not a linear classifier")


def _is_dynamic(vit: Any) -> list[str]:
    """Arguments of timm that are on, with which the model takes images of any size."""
    holders = {"dynamic_img_size": vit, "dynamic_img_pad": vit.patch_embed}
    return [name for name, holder in holders.items() if getattr(holder, name, False)]


def _stem(vit: Any) -> dict[str, Any]:
    embed = vit.patch_embed
    if isinstance(embed, PatchEmbed) and isinstance(embed.norm, nn.Identity):
        height, width = embed.patch_size
        return {"patch_inputs": embed.proj.in_channels * height * width}
    return {"patch_inputs": 0, "stem": price_of(embed, tuple(embed.img_size))}


def _attention_pool(vit: Any, block: BlockShape) -> AttentionPool | None:
    pool = getattr(vit, "attn_pool", None)
    if pool is None:
        return None
    if type(pool) is not AttentionPoolLatent or pool.mlp is None or pool.pos_embed is not None:
        raise UnsupportedModelError(f"attn_pool is a {type(pool).__name__} that is not timm's attention pooling with an MLP")
    if norm_kind(pool.q_norm, "attn_pool.q_norm") is not None or not isinstance(pool.mlp.norm, nn.Identity):
        raise UnsupportedModelError("attn_pool: normalised queries and keys, or a norm in its MLP, are not supported")
    dim, queries, width = pool.kv.in_features, pool.latent_len, pool.num_heads * pool.head_dim
    query = pool.latent_dim * width if isinstance(pool.q, nn.Linear) else 0
    mlp = sum(layer.weight.numel() for layer in (pool.mlp.fc1, pool.mlp.fc2))
    norm = has_norm(pool.norm, "attn_pool.norm", block.norm)
    return AttentionPool(
        # Key and value of the token, and its products with each query in QK^T and AV.
        per_token=2 * dim * width + 2 * queries * width,
        fixed=Price(
            matmuls=queries * (query + pool.proj.weight.numel() + mlp),
            norms=queries * pool.out_features * NORMS[block.norm] * norm,
        ),
    )
