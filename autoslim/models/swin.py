"""timm's `SwinTransformer` and `SwinTransformerV2`: Swin (arXiv 2103.14030), S3 (arXiv 2111.14725) and Swin V2 (arXiv 2111.09883).

timm's model has stages of blocks, with a layer between them that joins four tokens to one. Open, it has all blocks in a row, each with the
layer in front of it, if there is one, and its attention in the parts of timm's `Attention` (`windows`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from timm.layers import PatchEmbed
from timm.models import checkpoint_seq
from timm.models import swin_transformer as first_version
from timm.models import swin_transformer_v2 as second_version
from torch import Tensor, nn

from autoslim.core.shape import BlockShape, Price, ViTShape
from autoslim.cost.flops import NORMS
from autoslim.errors import UnsupportedModelError
from autoslim.models.blocks import has_norm, norm_kind, read_sublayers
from autoslim.models.family import Family
from autoslim.models.opened_block import open_attention
from autoslim.models.positional import Positions
from autoslim.models.stem import price_of
from autoslim.models.windows import ContinuousBias, WindowBias, WindowBlock, Windows

_POOLS = ("avg", "max", "avgmax")

_NAMES = {
    "merging.": "downsample.",
    "attn.positions.table": "attn.relative_position_bias_table",
    "attn.positions.logit_scale": "attn.logit_scale",
    "attn.positions.mlp.": "attn.cpb_mlp.",
    "attn.qkv.q_bias": "attn.q_bias",
    "attn.qkv.v_bias": "attn.v_bias",
}
"""Beginnings of the open block's names of parameters, and timm's."""


class OpenSwin(nn.Module):
    """`swin` with its blocks in a row, on tokens (B, N, D); what goes in and what comes out is timm's."""

    def __init__(self, swin: Any, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.pretrained_cfg = swin.pretrained_cfg
        self.num_classes, self.num_features, self.global_pool = swin.num_classes, swin.num_features, swin.global_pool
        self.patch_embed, self.norm, self.head = swin.patch_embed, swin.norm, swin.head
        self.blocks: nn.Module = nn.Sequential(*blocks)
        self.grid = tuple(swin.layers[-1].output_resolution)
        self.grad_checkpointing = False
        self.train(swin.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    def forward_features(self, images_B3HW: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """The last stage's tokens in their rows and columns, (B, rows, columns, D)."""
        x_BND = self.patch_embed(images_B3HW).flatten(1, 2)
        if attn_mask is not None or is_causal:
            for block in self.blocks:  # type: ignore[attr-defined]
                x_BND = block(x_BND, attn_mask=attn_mask, is_causal=is_causal)
        elif self.grad_checkpointing and self.training:
            x_BND = checkpoint_seq(self.blocks, x_BND)
        else:
            x_BND = self.blocks(x_BND)
        out: Tensor = self.norm(x_BND.unflatten(1, self.grid))
        return out

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        out: Tensor = self.head(x, pre_logits=True) if pre_logits else self.head(x)
        return out

    def forward(self, images_B3HW: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images_B3HW))


class SwinFamily(Family):
    """Blocks in windows, in stages of which each has fewer and wider tokens than the one before."""

    classes: ClassVar[tuple[type[nn.Module], ...]] = (first_version.SwinTransformer, second_version.SwinTransformerV2)
    opened: ClassVar[tuple[type[nn.Module], ...]] = (OpenSwin,)
    modules: ClassVar[tuple[str, ...]] = ("swin_transformer", "swin_transformer_v2")
    classifiers: ClassVar[tuple[str, ...]] = ("head.fc.",)

    def fixed_arguments(self, model: nn.Module, image_size: Any) -> dict[str, Any]:
        swin: Any = model
        return {"dynamic_img_size": False, "strict_img_size": True} if swin.dynamic_img_size else {}

    def read_shape(self, model: nn.Module) -> ViTShape:
        swin: Any = model
        _check_ends(swin)
        blocks: list[Any] = [*swin.blocks] if type(model) is OpenSwin else _open_blocks(swin)
        shapes = [_read_block(block, f"blocks.{index}") for index, block in enumerate(blocks)]
        return ViTShape.of_blocks(
            shapes,
            image_size=tuple(swin.patch_embed.img_size),
            grid=tuple(swin.patch_embed.grid_size),
            patch_inputs=0,
            stem=price_of(swin.patch_embed, tuple(swin.patch_embed.img_size)),
            prefix_tokens=0,
            classes=swin.num_classes,
            classifiers=int(isinstance(swin.head.fc, nn.Linear)),
            pool=swin.global_pool,
            pre_norm=False,
            final_norm=has_norm(swin.norm, "norm", shapes[0].norm),
            pooled_norm=False,
            params=sum(parameter.numel() for parameter in model.parameters()),
        )

    def open(self, model: nn.Module) -> nn.Module:
        return OpenSwin(model, _open_blocks(model))

    def embed(self, model: nn.Module, images_B3HW: Tensor) -> Tensor:
        """Raises UnsupportedModelError: behind a later stage there is one token for several places of the image."""
        raise UnsupportedModelError(
            "features with their places need one grid of tokens in all blocks, and this model's stages have grids of their own; allowed: "
            "`forward_features`, which gives the last stage's"
        )

    def timm_state(self, model: nn.Module) -> dict[str, Tensor]:
        swin: Any = model
        stages = dict(zip((f"blocks.{index}." for index in range(len(swin.blocks))), _timm_names(swin.blocks), strict=True))
        named = {}
        for name, value in swin.state_dict().items():
            block, _, inner = name.partition(".")[2].partition(".")
            own = f"blocks.{block}."
            named[_timm_name(stages[own], inner) if name.startswith("blocks.") else name] = value
        return named

    def own_names(self, state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        version = first_version if isinstance(model, first_version.SwinTransformer) else second_version
        try:
            filtered: dict[str, Tensor] = version.checkpoint_filter_fn(state, model)
        except AttributeError as error:
            # timm looks for the attention of every bias: the checkpoint has more blocks than the model.
            raise KeyError(str(error)) from error
        return filtered


def _check_ends(swin: Any) -> None:
    if type(swin.patch_embed) is not PatchEmbed:
        raise UnsupportedModelError(f"patch_embed is a {type(swin.patch_embed).__name__}, not a PatchEmbed")
    if swin.patch_embed.proj.in_channels != 3:
        raise UnsupportedModelError(
            f"patch_embed takes {swin.patch_embed.proj.in_channels} channels; only RGB images are supported"
        )
    if swin.global_pool not in _POOLS:
        raise UnsupportedModelError(f"pooling {swin.global_pool!r} is not one of {', '.join(_POOLS)}")
    if not isinstance(swin.head.fc, nn.Linear | nn.Identity):
        raise UnsupportedModelError(f"head.fc is a {type(swin.head.fc).__name__}, not a linear classifier")


def _open_blocks(swin: Any) -> list[nn.Module]:
    """The blocks as they are in the open model, made from the model's parts."""
    blocks: list[nn.Module] = []
    for stage in swin.layers:
        for number, block in enumerate(stage.blocks):
            merges = number == 0 and not isinstance(stage.downsample, nn.Identity)
            merging = stage.downsample if merges else None
            blocks.append(_open_block(block, f"blocks.{len(blocks)}", merging=merging, entering=tuple(stage.input_resolution)))
    return blocks


def _open_block(block: Any, name: str, *, merging: nn.Module | None, entering: tuple[int, int]) -> WindowBlock:
    norms_behind = type(block) is second_version.SwinTransformerV2Block
    if type(block) is not first_version.SwinTransformerBlock and not norms_behind:
        raise UnsupportedModelError(f"{name} is a {type(block).__name__}, not one of timm's blocks with attention in windows")
    grid, size = tuple(block.input_resolution), tuple(block.window_size)
    if any(extent % own for extent, own in zip(grid, size, strict=True)):
        raise UnsupportedModelError(
            f"{name}: windows of {size[0]}x{size[1]} do not cover its {grid[0]}x{grid[1]} tokens exactly; allowed: another image size, or "
            "another window_size among the model's arguments"
        )
    parts = {
        "norm1": block.norm1,
        "attn": open_attention(block.attn, _positions(block.attn, name), name, (type(block.attn),)),
        "ls1": nn.Identity(),
        "drop_path1": block.drop_path1,
        "norm2": block.norm2,
        "mlp": block.mlp,
        "ls2": nn.Identity(),
        "drop_path2": block.drop_path2,
    }
    windows = Windows(grid, size, shift=tuple(block.shift_size), mask_MWW=block.attn_mask)
    opened = WindowBlock(parts, windows, merging=merging, entering=entering, norms_behind=norms_behind)
    return opened.train(block.training)


def _positions(attention: Any, name: str) -> Positions:
    index_WW = attention.relative_position_index
    if type(attention) is first_version.WindowAttention:
        return WindowBias(attention.relative_position_bias_table.detach(), index_WW)
    if type(attention) is second_version.WindowAttention:
        return ContinuousBias(attention.logit_scale.detach(), attention.cpb_mlp, attention.relative_coords_table, index_WW)
    raise UnsupportedModelError(f"{name}.attn is a {type(attention).__name__}, not timm's WindowAttention")


def _read_block(block: Any, name: str) -> BlockShape:
    windows = block.windows
    tokens, window = windows.grid[0] * windows.grid[1], windows.size[0] * windows.size[1]
    shape = read_sublayers(block.norm1, block.attn, block.norm2, block.mlp, name, tokens).replace(window=window)
    if isinstance(block.attn.positions, ContinuousBias):
        shape = shape.replace(**block.attn.positions.prices)
    if not hasattr(block, "merging"):
        return shape
    mergings = (first_version.PatchMerging, second_version.PatchMerging)
    if type(block.merging) not in mergings or norm_kind(block.merging.norm, f"{name}.merging.norm") != shape.norm:
        raise UnsupportedModelError(
            f"{name} has a {type(block.merging).__name__} in front of it, not timm's PatchMerging with its norm"
        )
    # The second version has the norm behind the projection.
    normed, projection = block.merging.norm.weight.numel(), block.merging.reduction.weight.numel()
    return shape.replace(between=Price(matmuls=tokens * projection, norms=NORMS[shape.norm] * tokens * normed))


def _timm_names(blocks: Any) -> Iterator[tuple[int, int]]:
    """Stage and number of every block."""
    stage = number = 0
    for index, block in enumerate(blocks):
        stage, number = (stage + 1, 0) if hasattr(block, "merging") else (stage, number + 1 if index else 0)
        yield stage, number


def _timm_name(place: tuple[int, int], inner: str) -> str:
    """timm's name of what is `inner` in the open block of this stage and number."""
    stage, number = place
    for own, timms in _NAMES.items():
        inner = timms + inner.removeprefix(own) if inner.startswith(own) else inner
    return f"layers.{stage}.{inner}" if inner.startswith("downsample.") else f"layers.{stage}.blocks.{number}.{inner}"
