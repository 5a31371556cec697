"""What holds for patches that join others, whichever method chose them: merging written out token by token."""

from __future__ import annotations

import copy
from typing import Any

import torch
from helpers.tiny import images
from torch import Tensor, nn
from torch.nn import functional

from autoslim.methods.layers.merging import MergeInto, MergingBlock
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.models.placed_tokens import TokenIndices
from autoslim.models.positional import attention_of

Pass = tuple[Any, Any, Any]
"""A module, what enters it and what leaves it."""


@torch.no_grad()
def passes(model: nn.Module, x: Tensor, kind: type[nn.Module] = MergingBlock) -> list[Pass]:
    """Every module of this kind, with what enters and what leaves it."""
    seen: list[Pass] = []
    hooks = [
        part.register_forward_hook(lambda part, inputs, output: seen.append((part, inputs[0], output)))
        for part in model.modules()
        if isinstance(part, kind)
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    return seen


@torch.no_grad()
def check_merging(cut: nn.Module, dense: nn.Module) -> None:
    """Every place of `cut`, in double precision, where patches join others, against the same written out."""
    x, whole = images(dtype=torch.float64), copy.deepcopy(dense)
    prefix = dense.num_prefix_tokens
    inside, before = passes(cut, x), passes(cut, x, MergeInto)
    assert inside or before
    places = {id(block): place for place, block in enumerate(blocks_of(cut))}
    for part, entered, left in (*inside, *before):
        merge = part.merge if isinstance(part, MergingBlock) else part
        rows_BK = each_images(merge.selector.rows(entered.x_BND), len(x))
        for image in range(len(x)):
            sizes_N, rows_K = entered.sizes()[image], rows_BK[image]
            tokens_KD, sizes_K = merged(entered.x_BND[image], sizes_N, rows_K, prefix)
            if isinstance(part, MergingBlock):
                block = blocks_of(whole)[places[id(part)]]
                entering = entered.x_BND.shape[1] if entered.places is None else entered.places
                places_N = each_images(entering, len(x))[image]
                tokens_KD = merged_block(block, entered.x_BND[image], sizes_N, rows_K, tokens_KD, places_N)
            torch.testing.assert_close(left.x_BND[image], tokens_KD, rtol=0, atol=1e-10)
            assert torch.equal(left.size_BN[image], sizes_K)


def each_images(rows: TokenIndices, batch: int) -> Tensor:
    """Indices of tokens, in whichever form, for every image: (B, K)."""
    index = torch.arange(rows) if isinstance(rows, int) else rows
    return index.expand(batch, -1) if index.ndim == 1 else index


def merged(x_ND: Tensor, size_N: Tensor, rows_K: Tensor, prefix: int) -> tuple[Tensor, Tensor]:
    """The tokens of one image that stay, each the mean of its group, and their sizes."""
    stay, groups = rows_K.tolist(), {row: [row] for row in rows_K.tolist()}
    normal_ND = functional.layer_norm(x_ND, x_ND.shape[-1:])
    for token in sorted(set(range(len(x_ND))) - set(stay)):
        cosine = {row: functional.cosine_similarity(normal_ND[token], normal_ND[row], dim=0).item() for row in stay[prefix:]}
        groups[max(cosine, key=lambda row: cosine[row])].append(token)
    size_K = torch.stack([size_N[groups[row]].sum() for row in stay])
    mean_KD = torch.stack([(x_ND[groups[row]] * size_N[groups[row], None]).sum(0) for row in stay]) / size_K[:, None]
    return mean_KD, size_K


def merged_block(block: Any, x_ND: Tensor, size_N: Tensor, rows_K: Tensor, mean_KD: Tensor, places_N: Tensor) -> Tensor:
    """One image through a whole block in which tokens are merged to `mean_KD`: queries of those that stay, every token a key."""
    # As a key each token is there as often as its size, each time in its own place.
    often_1MD, places_M = x_ND.repeat_interleave(size_N.long(), dim=0)[None], places_N.repeat_interleave(size_N.long())
    attended_MD = attention_of(block, block.norm1(often_1MD), places_M)[0]
    first_N = size_N.long().cumsum(0) - size_N.long()
    x_KD = mean_KD + block.ls1(attended_MD[first_N[rows_K]])
    out_KD: Tensor = x_KD + block.ls2(block.mlp(block.norm2(x_KD)))
    return out_KD
