"""LV-ViT (Jiang et al., NeurIPS 2021, arXiv 2104.10858), registered with timm: `timm.create_model("lvvit_s")`.

A ViT with a convolutional stem, residual branches divided by a constant, and, in training, a second head that classifies every patch.
Two kinds, each under its own names, because their stems differ:

- `lvvit_t`, `_s`, `_m`, `_l`: those of the paper, as TokenLabeling's code has them;
- `sit_lvvit_t`, `_xs`, `_s`, `_m`, `_l`: those that SiT (arXiv 2111.12624) slims.

The blocks are timm's own: x + f(x) / c equals x + g(x), where the last layer of g is that of f divided by c. Loading the original
checkpoints divides these layers once (`checkpoint_filter_fn`). The head of the patches is no part of the model, as SiT and Patch Slimming
count FLOPs without it; its weights in a checkpoint are left out.

Shapes: B batch, P patches, D width.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from timm.layers import LayerNorm
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn as vit_filter
from torch import Tensor, nn

_DIVIDED = ("attn.proj", "mlp.fc2")
"""The last layers of a block's two branches."""

_PATCH_HEAD = "aux_head."


class ConvStem(nn.Module):
    """Convolutions with batch norm instead of one patch projection: (B, 3, h, w) -> (B, P, D)."""

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int],
        patch_size: int | tuple[int, int],
        in_chans: int,
        embed_dim: int,
        bias: bool = True,
        dynamic_img_pad: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.img_size = (height, width)
        self.patch_size = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
        self.grid_size = (height // self.patch_size[0], width // self.patch_size[1])
        self.num_patches = self.grid_size[0] * self.grid_size[1]

    def _add(self, number: int, inputs: int, outputs: int, *, kernel: int, stride: int, **options: Any) -> None:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False, **options)
        self.add_module(f"conv{number}", convolution)
        self.add_module(f"bn{number}", nn.BatchNorm2d(outputs, **options))

    def feat_ratio(self) -> int:
        return max(self.patch_size)


class TokenLabelingStem(ConvStem):
    """Three convolutions at half the resolution, then a projection of windows of half the patch size."""

    def __init__(self, *, channels: int = 64, **options: Any) -> None:
        super().__init__(**options)
        where = {"device": options.get("device"), "dtype": options.get("dtype")}
        self._add(1, options["in_chans"], channels, kernel=7, stride=2, **where)
        self._add(2, channels, channels, kernel=3, stride=1, **where)
        self._add(3, channels, channels, kernel=3, stride=1, **where)
        window = (self.patch_size[0] // 2, self.patch_size[1] // 2)
        self.proj = nn.Conv2d(channels, options["embed_dim"], window, window, **where)

    def forward(self, x: Tensor) -> Tensor:
        for number in (1, 2, 3):
            x = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(x)).relu()
        projected: Tensor = self.proj(x)
        return projected.flatten(2).transpose(1, 2)


class SiTStem(ConvStem):
    """Convolutions that halve the resolution and double the channels, up to the model's width; `deep` adds two at half the resolution."""

    def __init__(self, *, deep: bool = False, **options: Any) -> None:
        super().__init__(**options)
        where = {"device": options.get("device"), "dtype": options.get("dtype")}
        width, inputs = options["embed_dim"], options["in_chans"]
        layers = [(width // 8, 2), *([(width // 8, 1)] * 2 if deep else []), (width // 4, 2), (width // 2, 2), (width, 2)]
        for number, (outputs, stride) in enumerate(layers, 1):
            self._add(number, inputs, outputs, kernel=3, stride=stride, **where)
            inputs = outputs
        self.layers = len(layers)

    def forward(self, x: Tensor) -> Tensor:
        for number in range(1, self.layers + 1):
            x = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(x))
            # No activation behind the last one, which takes the place of the projection.
            x = nn.functional.gelu(x) if number < self.layers else x
        return x.flatten(2).transpose(1, 2)


class LVViT(VisionTransformer):
    """timm's ViT with another stem. `residual_divisor` is the constant by which the original divides its residual branches."""

    def __init__(self, *, residual_divisor: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.residual_divisor = residual_divisor
        # A model from scratch starts as the original does.
        with torch.no_grad():
            for block in self.blocks:
                for name in _DIVIDED:
                    layer = block.get_submodule(name)
                    layer.weight.div_(residual_divisor)
                    layer.bias.div_(residual_divisor)


def checkpoint_filter_fn(state: dict[str, Tensor], model: LVViT, **options: Any) -> dict[str, Tensor]:
    """The weights under timm's names: those of an original checkpoint, or of this model's own."""
    state = state.get("model", state)  # type: ignore[assignment]
    original = any(name.startswith(_PATCH_HEAD) for name in state)
    left = {name: value for name, value in state.items() if not name.startswith(_PATCH_HEAD)}
    if original:
        left = {name: _divide(name, value, model.residual_divisor) for name, value in left.items()}
    filtered: dict[str, Tensor] = vit_filter(left, model, **options)
    return filtered


def _divide(name: str, value: Tensor, divisor: float) -> Tensor:
    return value / divisor if name.startswith("blocks.") and name.rpartition(".")[0].endswith(_DIVIDED) else value


def _config(**own: Any) -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "fixed_input_size": True,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        # The stem's first layer and the classifier, for timm's adaptation of weights to other channels and classes.
        "first_conv": "patch_embed.conv1",
        "classifier": "head",
        **own,
    }


default_cfgs = generate_default_cfgs(
    {
        "lvvit_t": _config(),
        "lvvit_s": _config(),
        "lvvit_m": _config(crop_pct=1.0),
        "lvvit_l": _config(crop_pct=1.0),
        "sit_lvvit_t": _config(),
        "sit_lvvit_xs": _config(),
        "sit_lvvit_s": _config(),
        "sit_lvvit_m": _config(),
        "sit_lvvit_l": _config(input_size=(3, 288, 288)),
    }
)


def _create(variant: str, pretrained: bool, given: dict[str, Any], **own: Any) -> LVViT:
    # As in both codes: no bias in queries, keys and values, hidden units of three widths, torch's epsilon in the norms.
    common = {"patch_size": 16, "mlp_ratio": 3.0, "qkv_bias": False, "norm_layer": functools.partial(LayerNorm, eps=1e-5)}
    model: LVViT = build_model_with_cfg(
        LVViT, variant, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **{**common, **own, **given}
    )
    return model


_Stem128 = functools.partial(TokenLabelingStem, channels=128)
_DeepSiTStem = functools.partial(SiTStem, deep=True)


@register_model
def lvvit_t(pretrained: bool = False, **options: Any) -> LVViT:
    own = {"embed_dim": 240, "depth": 12, "num_heads": 4, "residual_divisor": 1.0, "embed_layer": TokenLabelingStem}
    return _create("lvvit_t", pretrained, options, **own)


@register_model
def lvvit_s(pretrained: bool = False, **options: Any) -> LVViT:
    own = {"embed_dim": 384, "depth": 16, "num_heads": 6, "residual_divisor": 2.0, "embed_layer": TokenLabelingStem}
    return _create("lvvit_s", pretrained, options, **own)


@register_model
def lvvit_m(pretrained: bool = False, **options: Any) -> LVViT:
    own = {"embed_dim": 512, "depth": 20, "num_heads": 8, "residual_divisor": 2.0, "embed_layer": TokenLabelingStem}
    return _create("lvvit_m", pretrained, options, **own)


@register_model
def lvvit_l(pretrained: bool = False, **options: Any) -> LVViT:
    own = {"embed_dim": 768, "depth": 24, "num_heads": 12, "residual_divisor": 3.0, "embed_layer": _Stem128}
    return _create("lvvit_l", pretrained, options, **own)


@register_model
def sit_lvvit_t(pretrained: bool = False, **options: Any) -> LVViT:
    own = {"embed_dim": 320, "depth": 14, "num_heads": 5, "residual_divisor": 2.0, "embed_layer": SiTStem}
    return _create("sit_lvvit_t", pretrained, options, **own)


@register_model
def sit_lvvit_xs(pretrained: bool = False, **options: Any) -> LVViT:
    own = {"embed_dim": 384, "depth": 16, "num_heads": 6, "residual_divisor": 2.0, "embed_layer": SiTStem}
    return _create("sit_lvvit_xs", pretrained, options, **own)


@register_model
def sit_lvvit_s(pretrained: bool = False, **options: Any) -> LVViT:
    # The architecture of `sit_lvvit_xs`: SiT's two differ in where they slim.
    own = {"embed_dim": 384, "depth": 16, "num_heads": 6, "residual_divisor": 2.0, "embed_layer": SiTStem}
    return _create("sit_lvvit_s", pretrained, options, **own)


@register_model
def sit_lvvit_m(pretrained: bool = False, **options: Any) -> LVViT:
    own = {"embed_dim": 512, "depth": 20, "num_heads": 8, "residual_divisor": 2.0, "embed_layer": SiTStem}
    return _create("sit_lvvit_m", pretrained, options, **own)


@register_model
def sit_lvvit_l(pretrained: bool = False, **options: Any) -> LVViT:
    own = {"img_size": 288, "embed_dim": 768, "depth": 24, "num_heads": 12, "residual_divisor": 3.0, "embed_layer": _DeepSiTStem}
    return _create("sit_lvvit_l", pretrained, options, **own)
