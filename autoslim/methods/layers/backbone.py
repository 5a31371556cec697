"""A slimmed model as a backbone: its features, and feature maps for dense tasks, under the names of timm's methods.

Shapes: B images, T tokens of the image (prefix included), K tokens that are left, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from timm.models.vision_transformer import feature_take_indices
from torch import Tensor, nn

from autoslim.methods.layers.token_origins import (
    BlockTokens,
    final_norm,
    head_input,
    restore_tokens,
    tokens_behind_blocks,
)
from autoslim.methods.layers.token_trunk import Trunk, refuse_mask
from autoslim.models.registry import family_of

_FORMATS = ("NCHW", "NLC")


class Features(NamedTuple):
    """What a model makes of images besides logits.

    `pooled` (B, D) is what its classifier reads or would read. `tokens` (B, K, D) are those that are left behind the final norm, prefix
    first, and `places` (B, K) which of the image's tokens each of them is, counted with the prefix: place p is patch p - prefix in
    reading order. -1 is padding, where images have different counts. Restored tokens are all the image's, (B, T, D), at the places
    0 to T - 1.
    """

    pooled: Tensor
    tokens: Tensor
    places: Tensor


def features(model: nn.Module, images_B3HW: Tensor, *, restore_tokens: bool = False) -> Features:
    """The features of a dense or slimmed model, for images (B, 3, height, width).

    With `restore_tokens`, a token that was dropped is filled from the spatially nearest that is left, one that was merged from the one
    that it has joined, and one that SiT has mixed from the tokens that it is a part of, by its shares in them. Without, the place of a
    merged token is that of the one that others have joined, and the place of a mixed token where its largest share is from.

    Raises:
        UnsupportedModelError: for a model that autoslim cannot read, or where no patch is left to restore others from.
    """
    *_, last = tokens_behind_blocks(model, family_of(model).embed(model, images_B3HW))
    head: Any = model.forward_head
    pooled_BD: Tensor = head(head_input(model, last), pre_logits=True)
    if restore_tokens:
        tokens_BTD = final_norm(model)(_restored(model, last))
        return Features(pooled_BD, tokens_BTD, BlockTokens(tokens_BTD, None, None).places_BK())
    return Features(pooled_BD, final_norm(model)(last.x_BKD), last.places_BK())


def as_backbone(model: nn.Module) -> nn.Module:
    """Gives the model, in place, the methods `forward_features`, `forward_intermediates` and `get_intermediate_layers` of this module."""
    # On the instance: timm's class, which other models share, stays as it is.
    for method in (forward_features, forward_intermediates, get_intermediate_layers):
        # A partial, unlike a bound method, is copied and pickled along with the model.
        setattr(model, method.__name__, functools.partial(method, model))
    return model


def install(model: nn.Module, trunk: nn.Module) -> nn.Module:
    """Replaces the model's blocks by `trunk`."""
    model.blocks = trunk
    return as_backbone(model)


def forward_features(
    model: nn.Module,
    x: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    *,
    restore_tokens: bool = False,
    return_places: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """timm's `forward_features`: tokens (B, K, D) behind the final norm; with `restore_tokens`, all the image's (B, T, D).

    With `return_places`, the tokens and their places (B, K), as in `Features`.
    """
    if restore_tokens or return_places:
        refuse_mask(attn_mask, is_causal)
        found = features(model, x, restore_tokens=restore_tokens)
        return (found.tokens, found.places) if return_places else found.tokens
    timms: Any = type(model)
    left: Tensor
    if attn_mask is None and not is_causal:
        # Not all of timm's classes take a mask.
        left = timms.forward_features(model, x)
        return left
    if isinstance(model.blocks, Trunk):
        refuse_mask(attn_mask, is_causal)
    left = timms.forward_features(model, x, attn_mask=attn_mask, is_causal=is_causal)
    return left


def forward_intermediates(
    model: nn.Module,
    x: Tensor,
    indices: int | Sequence[int] | None = None,
    return_prefix_tokens: bool = False,
    norm: bool = False,
    stop_early: bool = False,
    output_fmt: str = "NCHW",
    intermediates_only: bool = False,
    output_dict: bool = False,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
) -> Any:
    """timm's `forward_intermediates`: feature maps (B, D, rows, columns) behind the blocks `indices`, restored to the image's whole grid.

    The final features beside them are the tokens that are left. Arguments and results are otherwise timm's.

    Raises:
        UnsupportedModelError: where one of the blocks leaves no patch.
    """
    refuse_mask(attn_mask, is_causal)
    if output_fmt not in _FORMATS:
        raise ValueError(f"output_fmt is {output_fmt!r}; allowed: {', '.join(_FORMATS)}")
    vit: Any = model
    wanted, last_wanted = feature_take_indices(len(vit.blocks), indices)
    maps: list[Tensor] = []
    prefixes: list[Tensor] = []
    for index, behind in enumerate(tokens_behind_blocks(model, family_of(model).embed(model, x))):
        if index in wanted:
            restored_BTD = _restored(model, behind)
            restored_BTD = final_norm(model)(restored_BTD) if norm else restored_BTD
            prefixes.append(restored_BTD[:, : vit.num_prefix_tokens])
            maps.append(_as_map(restored_BTD[:, vit.num_prefix_tokens :], vit, output_fmt))
        if stop_early and index == last_wanted:
            break
    with_prefix = return_prefix_tokens and vit.num_prefix_tokens > 0
    if output_dict:
        found: dict[str, Any] = {"image_intermediates": maps}
        found |= {"image_intermediates_prefix": prefixes} if with_prefix else {}
        return found if intermediates_only else found | {"image_features": head_input(model, behind)}
    intermediates = list(zip(maps, prefixes, strict=True)) if with_prefix else maps
    return intermediates if intermediates_only else (head_input(model, behind), intermediates)


def get_intermediate_layers(
    model: nn.Module,
    x: Tensor,
    n: int | Sequence[int] = 1,
    reshape: bool = False,
    return_prefix_tokens: bool = False,
    norm: bool = False,
    attn_mask: Tensor | None = None,
) -> Any:
    """timm's `get_intermediate_layers`: the maps of `forward_intermediates` alone, as tokens unless they are reshaped."""
    return forward_intermediates(
        model,
        x,
        n,
        return_prefix_tokens=return_prefix_tokens,
        norm=norm,
        output_fmt="NCHW" if reshape else "NLC",
        intermediates_only=True,
        attn_mask=attn_mask,
    )


def _restored(model: nn.Module, behind: BlockTokens) -> Tensor:
    vit: Any = model
    return restore_tokens(
        behind.x_BKD, behind.origin_BKT, grid=tuple(vit.patch_embed.grid_size), num_prefix_tokens=vit.num_prefix_tokens
    )


def _as_map(patches_BPD: Tensor, vit: Any, output_fmt: str) -> Tensor:
    if output_fmt == "NLC":
        return patches_BPD
    rows, columns = vit.patch_embed.grid_size
    return patches_BPD.reshape(patches_BPD.shape[0], rows, columns, -1).permute(0, 3, 1, 2).contiguous()
