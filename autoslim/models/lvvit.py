"""LV-ViT (Jiang et al., NeurIPS 2021, arXiv 2104.10858), registered with timm: `timm.create_model("lvvit_s")`.

A ViT with a convolutional stem, residual branches divided by a constant, and, in training, a second head that classifies every patch.
Two kinds, each under its own names, because their stems differ:

- `lvvit_t`, `_s`, `_m`, `_l`: those of the paper, as TokenLabeling's code has them;
- `sit_lvvit_t`, `_xs`, `_s`, `_m`, `_l`: those that SiT (arXiv 2111.12624) slims.

The blocks are timm's own: x + f(x) / c equals x + g(x), where the last layer of g is that of f divided by c. Loading the original
checkpoints divides these layers (`checkpoint_filter_fn`); weights that were divided before have a mark. The head of the patches is no part
of the model, as SiT and Patch Slimming count FLOPs without it; its weights in a checkpoint are left out, with a warning. Where the patches
of training images have labels, `training.token_labeling` trains one along.

Shapes: B batch, P patches, D width.
"""

from __future__ import annotations

import abc
import functools
import logging
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from timm.layers import LayerNorm
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn as vit_filter
from torch import Tensor, nn

from autoslim.models.vision_transformer import PlainViT

_DIVIDED = ("attn.proj", "mlp.fc2")
"""The last layers of a block's two branches."""

_PATCH_HEAD = "aux_head."

_MARK = "residuals_divided"
"""The buffer that tells this model's own weights from those of an original checkpoint, whose names are the same otherwise."""

_log = logging.getLogger(__name__)


class ConvStem(nn.Module, abc.ABC):
    """Convolutions with batch norm instead of one patch projection: (B, 3, h, w) -> (B, P, D).

    Arguments and attributes are those of timm's `PatchEmbed`.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int],
        patch_size: int | tuple[int, int],
        in_chans: int,
        embed_dim: int,
        *,
        bias: bool = True,
        dynamic_img_pad: bool = False,
        **where: Any,
    ) -> None:
        super().__init__()
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.patch_size = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
        self.grid_size = (self.img_size[0] // self.patch_size[0], self.img_size[1] // self.patch_size[1])
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        convolutions = self.convolutions(embed_dim)
        self.layers = len(convolutions)
        for number, (inputs, (outputs, kernel, stride)) in enumerate(
            zip((in_chans, *(outputs for outputs, _, _ in convolutions)), convolutions, strict=False), 1
        ):
            convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False, **where)
            self.add_module(f"conv{number}", convolution)
            self.add_module(f"bn{number}", nn.BatchNorm2d(outputs, **where))

    @staticmethod
    @abc.abstractmethod
    def convolutions(embed_dim: int) -> list[tuple[int, int, int]]:
        """Channels, kernel and stride of each."""

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """The grid of patches of an image, which timm's `forward_intermediates` asks for."""
        return img_size[0] // self.patch_size[0], img_size[1] // self.patch_size[1]

    def _convolve(self, number: int, x: Tensor) -> Tensor:
        out: Tensor = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(x))
        return out


class TokenLabelingStem(ConvStem):
    """Three convolutions at half the resolution, then a projection of windows of half the patch size."""

    channels: ClassVar[int] = 64

    def __init__(
        self, img_size: int | tuple[int, int], patch_size: int | tuple[int, int], in_chans: int, embed_dim: int, **options: Any
    ) -> None:
        super().__init__(img_size, patch_size, in_chans, embed_dim, **options)
        window = (self.patch_size[0] // 2, self.patch_size[1] // 2)
        where = {name: options[name] for name in ("device", "dtype") if name in options}
        self.proj = nn.Conv2d(self.channels, embed_dim, window, window, **where)

    @classmethod
    def convolutions(cls, embed_dim: int) -> list[tuple[int, int, int]]:
        return [(cls.channels, 7, 2), (cls.channels, 3, 1), (cls.channels, 3, 1)]

    def forward(self, x: Tensor) -> Tensor:
        for number in range(1, self.layers + 1):
            x = self._convolve(number, x).relu()
        projected: Tensor = self.proj(x)
        return projected.flatten(2).transpose(1, 2)


class WideTokenLabelingStem(TokenLabelingStem):
    channels: ClassVar[int] = 128


class SiTStem(ConvStem):
    """Convolutions that halve the resolution and double the channels, up to the model's width."""

    @staticmethod
    def convolutions(embed_dim: int) -> list[tuple[int, int, int]]:
        return [(embed_dim // share, 3, 2) for share in (8, 4, 2, 1)]

    def forward(self, x: Tensor) -> Tensor:
        for number in range(1, self.layers):
            x = nn.functional.gelu(self._convolve(number, x))
        # No activation behind the last one, which takes the place of the projection.
        return self._convolve(self.layers, x).flatten(2).transpose(1, 2)


class DeepSiTStem(SiTStem):
    """With two more convolutions at half the resolution."""

    @staticmethod
    def convolutions(embed_dim: int) -> list[tuple[int, int, int]]:
        first, *others = SiTStem.convolutions(embed_dim)
        return [first, *[(embed_dim // 8, 3, 1)] * 2, *others]


class LVViT(VisionTransformer):  # type: ignore[misc]
    """timm's ViT with another stem. `residual_divisor` is the constant by which the original divides its residual branches."""

    def __init__(self, *, residual_divisor: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.residual_divisor = residual_divisor
        self.register_buffer(_MARK, torch.ones((), dtype=torch.bool, device=options.get("device")))
        # A model from scratch starts as the original does.
        with torch.no_grad():
            for block in self.blocks:
                for name in _DIVIDED:
                    layer = block.get_submodule(name)
                    layer.weight.div_(residual_divisor)
                    layer.bias.div_(residual_divisor)


def checkpoint_filter_fn(state: dict[str, Tensor], model: Any, **options: Any) -> dict[str, Tensor]:
    """The weights under timm's names: those of an original checkpoint, or of this model's own."""
    state = state.get("model", state)  # type: ignore[assignment]
    left = {name: value for name, value in state.items() if not name.startswith(_PATCH_HEAD)}
    if len(left) < len(state):
        _log.warning("the weights of LV-ViT's head that classifies patches are left out")
    if _MARK not in left:
        left = {name: _divide(name, value, model.residual_divisor) for name, value in left.items()} | {
            _MARK: model.get_buffer(_MARK)
        }
    filtered: dict[str, Tensor] = vit_filter(left, model, **options)
    return filtered


class LVViTFamily(PlainViT):
    """timm's blocks behind a stem whose price is counted once."""

    classes: ClassVar[tuple[type[nn.Module], ...]] = (LVViT,)
    modules: ClassVar[tuple[str, ...]] = ("lvvit",)
    stems: ClassVar[tuple[type[nn.Module], ...]] = (TokenLabelingStem, WideTokenLabelingStem, SiTStem, DeepSiTStem)
    filter_checkpoint: ClassVar[Callable[..., dict[str, Tensor]]] = checkpoint_filter_fn


def _divide(name: str, value: Tensor, divisor: float) -> Tensor:
    return value / divisor if name.startswith("blocks.") and name.rpartition(".")[0].endswith(_DIVIDED) else value


def _config(**own: Any) -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "pool_size": None,
        "interpolation": "bicubic",
        "fixed_input_size": True,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        # The stem's first layer and the classifier, for timm's adaptation of weights to other channels and classes.
        "first_conv": "patch_embed.conv1",
        "classifier": "head",
        **own,
    }


_COMMON: dict[str, Any] = {
    "patch_size": 16,
    # As in both codes: hidden units of three widths, no bias in queries, keys and values, torch's epsilon in the norms.
    "mlp_ratio": 3.0,
    "qkv_bias": False,
    "norm_layer": functools.partial(LayerNorm, eps=1e-5),
}


def _sizes(width: int, depth: int, heads: int, divisor: float, stem: type[ConvStem]) -> dict[str, Any]:
    return {"embed_dim": width, "depth": depth, "num_heads": heads, "residual_divisor": divisor, "embed_layer": stem}


MODELS: dict[str, dict[str, Any]] = {
    "lvvit_t": _sizes(240, 12, 4, 1.0, TokenLabelingStem),
    "lvvit_s": _sizes(384, 16, 6, 2.0, TokenLabelingStem),
    "lvvit_m": _sizes(512, 20, 8, 2.0, TokenLabelingStem),
    "lvvit_l": _sizes(768, 24, 12, 3.0, WideTokenLabelingStem),
    "sit_lvvit_t": _sizes(320, 14, 5, 2.0, SiTStem),
    "sit_lvvit_xs": _sizes(384, 16, 6, 2.0, SiTStem),
    # The architecture of `sit_lvvit_xs`: SiT's two differ in where they slim.
    "sit_lvvit_s": _sizes(384, 16, 6, 2.0, SiTStem),
    "sit_lvvit_m": _sizes(512, 20, 8, 2.0, SiTStem),
    "sit_lvvit_l": {"img_size": 288, **_sizes(768, 24, 12, 3.0, DeepSiTStem)},
}
"""timm's arguments by the models' names."""

# Under this name `register_model` looks for them in the module.
default_cfgs = generate_default_cfgs(
    {
        name: _config(
            crop_pct=1.0 if name in ("lvvit_m", "lvvit_l") else 0.9,
            input_size=(3, own.get("img_size", 224), own.get("img_size", 224)),
        )
        for name, own in MODELS.items()
    }
)


def _entrypoint(name: str) -> Callable[..., LVViT]:
    def create(pretrained: bool = False, **options: Any) -> LVViT:
        arguments = {**_COMMON, **MODELS[name], **options}
        model: LVViT = build_model_with_cfg(LVViT, name, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **arguments)
        return model

    create.__name__ = create.__qualname__ = name
    return create


for _name in MODELS:
    register_model(_entrypoint(_name))
