"""timm's `NaFlexVit`: ViTs for images of any size and shape, here at one.

At one size their positions are a table, to which those of a checkpoint are resampled when it is loaded, once instead of in every pass. The
open model is timm's `VisionTransformer` with the same weights: patches are projected by a convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from timm.models.naflexvit import NaFlexVit, checkpoint_filter_fn
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from autoslim.core.shape import ViTShape
from autoslim.errors import UnsupportedModelError
from autoslim.models.vision_transformer import PlainViT

_LEARNED = "learned"

_ENDS = ("norm_pre", "blocks", "norm", "attn_pool", "fc_norm", "head_drop", "head")
"""What is behind the embedding, and has the same name in both classes."""

_EMBEDDED = {"patch_embed.proj.bias": "embeds.proj.bias"} | {name: f"embeds.{name}" for name in ("cls_token", "reg_token")}
"""Parameters of the open model, and timm's names of them."""


class FixedSizeViT(VisionTransformer):  # type: ignore[misc]
    """`naflex` at the image size that its table of positions is for."""

    def __init__(self, naflex: Any) -> None:
        embeds = naflex.embeds
        _check_embedding(naflex)
        height, width = embeds.patch_size
        rows, columns = embeds.pos_embed.shape[1:3]
        super().__init__(
            img_size=(rows * height, columns * width),
            patch_size=(height, width),
            in_chans=naflex.in_chans,
            num_classes=0,
            global_pool="",
            embed_dim=naflex.embed_dim,
            depth=0,
            class_token=embeds.cls_token is not None,
            no_embed_class=True,
            reg_tokens=naflex.num_reg_tokens,
            pre_norm=embeds.proj.bias is None,
            weight_init="skip",
            # Nothing is made that the model's own parts do not take the place of.
            device="meta",
        )
        self.pretrained_cfg = naflex.pretrained_cfg
        self.num_classes, self.global_pool = naflex.num_classes, naflex.global_pool
        self.pool_include_prefix = naflex.pool_include_prefix
        # A patch is a row of the linear layer, pixel by pixel with its three colours.
        weight_DPQ3 = embeds.proj.weight.detach().unflatten(1, (height, width, naflex.in_chans))
        self.patch_embed.proj.weight = nn.Parameter(weight_DPQ3.permute(0, 3, 1, 2).contiguous())
        self.patch_embed.proj.bias = embeds.proj.bias
        self.cls_token, self.reg_token = embeds.cls_token, embeds.reg_token
        self.pos_embed = nn.Parameter(embeds.pos_embed.detach().flatten(1, 2).clone())
        self.pos_drop = embeds.pos_drop
        for part in _ENDS:
            setattr(self, part, getattr(naflex, part))
        self.train(naflex.training)


class NaFlexFamily(PlainViT):
    """Plain blocks with absolute positions, once the image has a size."""

    classes: ClassVar[tuple[type[nn.Module], ...]] = (NaFlexVit,)
    opened: ClassVar[tuple[type[nn.Module], ...]] = (FixedSizeViT,)
    modules: ClassVar[tuple[str, ...]] = ("naflexvit",)
    classifiers: ClassVar[tuple[str, ...]] = ("head.",)
    filter_checkpoint: ClassVar[Callable[..., dict[str, Tensor]]] = checkpoint_filter_fn
    size_arguments: ClassVar[tuple[str, ...]] = (*PlainViT.size_arguments, "pos_embed", "pos_embed_grid_size")
    # Positions of another grid are what these models are made for.
    resampled: ClassVar[tuple[str, ...]] = ()

    def fixed_arguments(self, model: nn.Module, image_size: Any) -> dict[str, Any]:
        naflex: Any = model
        wanted = image_size or naflex.pretrained_cfg["input_size"][1:]
        height, width = (wanted, wanted) if isinstance(wanted, int) else wanted
        rows, columns = naflex.embeds.patch_size
        if height % rows or width % columns:
            raise UnsupportedModelError(f"image size {height}x{width} is not a multiple of the patch size {rows}x{columns}")
        grid = [height // rows, width // columns]
        table = naflex.embeds.pos_embed
        if table is not None and [*table.shape[1:3]] == grid:
            return {}
        return {"pos_embed": _LEARNED, "pos_embed_grid_size": grid}

    def image_and_patch(self, model: nn.Module) -> tuple[Any, Any]:
        embeds: Any = model.embeds
        grid = embeds.pos_embed.shape[1:3]
        return tuple(patches * side for patches, side in zip(grid, embeds.patch_size, strict=True)), embeds.patch_size

    def read_shape(self, model: nn.Module) -> ViTShape:
        return super().read_shape(self.open(model))

    def open(self, model: nn.Module) -> nn.Module:
        return model if isinstance(model, FixedSizeViT) else FixedSizeViT(model)

    def timm_state(self, model: nn.Module) -> dict[str, Tensor]:
        vit: Any = model
        named = {_EMBEDDED.get(name, name): value for name, value in vit.state_dict().items()}
        weight_D3PQ = named.pop("patch_embed.proj.weight")
        named["embeds.proj.weight"] = weight_D3PQ.permute(0, 2, 3, 1).flatten(1)
        named["embeds.pos_embed"] = named.pop("pos_embed").unflatten(1, tuple(vit.patch_embed.grid_size))
        return named

    def own_names(self, state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        named, embeds = super().own_names(state, model), model.embeds
        if "embeds.pos_embed" in named:
            named["embeds.pos_embed"] = _resampled(named["embeds.pos_embed"], embeds)
        elif "embeds.pos_embed_y" in named:
            named["embeds.pos_embed"] = _joined(named.pop("embeds.pos_embed_y"), named.pop("embeds.pos_embed_x"), embeds)
        return named


def _check_embedding(naflex: Any) -> None:
    embeds = naflex.embeds
    if embeds.pos_embed is None:
        raise UnsupportedModelError(
            f"embeds: positions of the type {embeds.pos_embed_type!r}, without an image size; allowed: pos_embed='learned'"
        )
    if naflex.rope is not None:
        raise UnsupportedModelError("rope: rotary positions of images of any size are not supported")
    if not embeds.is_linear or not embeds.channels_last:
        raise UnsupportedModelError("embeds: only a linear projection of patches with their channels last is supported")
    if embeds.norm_input is not None or not isinstance(embeds.norm, nn.Identity):
        raise UnsupportedModelError("embeds: a norm of the patches is not supported")
    if naflex.patch_drop is not None:
        raise UnsupportedModelError("patch_drop: random patch dropout would change the token counts; create the model without it")


def _resampled(table_1YXD: Tensor, embeds: Any) -> Tensor:
    """The table of positions at the model's grid, as timm interpolates it in every pass."""
    rows, columns = embeds.pos_embed.shape[1:3]
    if table_1YXD.ndim != 4 or table_1YXD.shape[1:3] == (rows, columns):
        return table_1YXD
    side = max(rows, columns)
    resized_1DYX = functional.interpolate(
        table_1YXD.permute(0, 3, 1, 2).float(),
        size=(side, side) if embeds.pos_embed_ar_preserving else (rows, columns),
        mode=embeds.pos_embed_interp_mode,
        align_corners=embeds.pos_embed_align_corners,
        antialias=embeds.pos_embed_antialias,
    )
    return resized_1DYX[:, :, :rows, :columns].permute(0, 2, 3, 1).to(table_1YXD.dtype)


def _joined(rows_1YD: Tensor, columns_1XD: Tensor, embeds: Any) -> Tensor:
    """One table of positions that are the sum of one for the row and one for the column, at the model's grid."""
    grid = tuple(embeds.pos_embed.shape[1:3])
    sides = (max(grid),) * 2 if embeds.pos_embed_ar_preserving else grid
    parts = [
        functional.interpolate(part.mT.float(), size=side, mode="linear", align_corners=False).mT[:, :kept].to(part.dtype)
        for part, side, kept in zip((rows_1YD, columns_1XD), sides, grid, strict=True)
    ]
    return parts[0].unsqueeze(2) + parts[1].unsqueeze(1)
