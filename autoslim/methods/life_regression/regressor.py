"""How long patches live (arXiv 2304.04926): the regressor that tells it, what drops patches by it, and the soft stage that trains it.

Shapes: B batch, N tokens, P patches, D width.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoslim.core.plan import Extra
from autoslim.cost.flops import LAYER_NORM
from autoslim.methods.layers.adaptive_trunk import Ragged, Scorer
from autoslim.methods.layers.token_selector import TokenIndices, TokenSelector
from autoslim.methods.layers.token_trunk import refuse_mask
from autoslim.methods.layers.tokens import behind_prefix, key_mask, order_by, standardise

REGRESSOR = "life regressor"
"""The regressor's name in a plan and in a latency table."""

_START = 0.1
"""Root mean square of W at the start."""


class LifeRegressor(nn.Module):
    """logit_j = p_j^T W c on normalised tokens, c the class token (the mean token where there is none): (B, N, D) -> (B, P)."""

    def __init__(self, dim: int, num_prefix_tokens: int) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.norm = nn.LayerNorm(dim)
        self.weight = nn.Parameter(torch.eye(dim) / math.sqrt(dim))

    @torch.no_grad()
    def init_from_attention(self, block: Any) -> None:
        """W = sum_h W_k^T W_q: the class token's attention in `block`, before the softmax, summed over heads and biases left out."""
        inner = block.attn.qkv.out_features // 3
        scale_D = block.norm1.weight
        queries_ED, keys_ED = (
            rows * scale_D for rows in (block.attn.qkv.weight[:inner], block.attn.qkv.weight[inner : 2 * inner])
        )
        start_DD = keys_ED.T @ queries_ED
        scale = start_DD.square().mean().sqrt()
        if scale > 0:
            # Standardised, lives do not depend on the scale of W; the optimiser's steps do.
            self.weight.copy_(start_DD * (_START / scale))

    def forward(self, x_BND: Tensor) -> Tensor:
        x_BND = self.norm(x_BND)
        patches_BPD = x_BND[:, self.num_prefix_tokens :]
        class_BD = x_BND[:, 0] if self.num_prefix_tokens else patches_BPD.mean(dim=1)
        return torch.matmul(patches_BPD, nn.functional.linear(class_BD, self.weight).unsqueeze(-1)).squeeze(-1)


class KeepLongestLived(TokenSelector):
    """The first drop at fixed counts: patches sorted by life once, the first `patches` of them kept."""

    def __init__(self, regressor: LifeRegressor, patches: int, life: tuple[float, float]) -> None:
        super().__init__()
        self.regressor = regressor
        self.patches = patches
        self.life = life

    def rows(self, x_BND: Tensor) -> TokenIndices:
        # Standardising keeps the order, so the finished model leaves it out.
        kept_BK = order_by(self.regressor(x_BND))[:, : self.patches]
        return behind_prefix(kept_BK, num_prefix_tokens=self.regressor.num_prefix_tokens)

    def standardise(self, logit_BP: Tensor) -> Tensor:
        mean, std = self.life
        return standardise(logit_BP, mean=mean, std=std)


class Lives(Scorer):
    """The first drop's scores in threshold mode: lives in blocks, standardised per image. The moments are a result of `calibrate`."""

    def __init__(self, regressor: LifeRegressor, life: tuple[float, float]) -> None:
        super().__init__()
        self.regressor = regressor
        self.register_buffer("mean", torch.tensor(float(life[0])))
        self.register_buffer("std", torch.tensor(float(life[1])))

    def forward(self, ragged: Ragged) -> Tensor:
        # It stands before any other drop, so that no token is padding yet.
        return self.standardise(self.regressor(ragged.x_BND))

    def standardise(self, logit_BP: Tensor) -> Tensor:
        mean: Tensor = self.mean  # type: ignore[assignment]
        std: Tensor = self.std  # type: ignore[assignment]
        return standardise(logit_BP.to(torch.promote_types(logit_BP.dtype, torch.float32)), mean=mean, std=std)

    def price(self, block: int, tokens: int) -> Extra:
        return regressor_price(block, tokens, self.regressor.num_prefix_tokens, len(self.regressor.weight))


@torch.no_grad()
def patch_lives(model: nn.Module, images_B3HW: Tensor) -> Tensor:
    """How long a slimmed model, or one whose regressor has been trained, lets each patch of the images live: (B, P), in blocks.

    Patches in reading order; lives count from the model's start and have the schedule's mean and deviation in every image.
    """
    holder = next(part for part in model.modules() if isinstance(part, KeepLongestLived | Lives | SoftLifeTrunk))
    logits_BP: list[Tensor] = []

    def note(regressor: nn.Module, inputs: tuple[Tensor], output_BP: Tensor) -> None:
        logits_BP.append(output_BP)

    hook = holder.regressor.register_forward_hook(note)
    try:
        model(images_B3HW)
    finally:
        hook.remove()
    return holder.standardise(logits_BP[0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftEnds:
    """Where lives end in the soft stage, block by block from the first drop on.

    `indices[i]` is the life, in blocks, that is long enough for block first + i; `kept[i]`, where it is given, is how many patches
    the cut form leaves there, and the end lies between the last of them and the next.
    """

    first: int
    indices: tuple[int, ...]
    kept: tuple[int, ...] | None

    def of(self, block: int, life_BP: Tensor) -> Tensor | int:
        """(B, 1) or a number."""
        place = block - self.first
        if self.kept is None:
            return self.indices[place]
        sorted_BP = life_BP.sort(dim=1, descending=True).values
        kept = self.kept[place]
        if kept >= life_BP.shape[1]:
            return sorted_BP[:, -1:] - len(self.indices)
        return sorted_BP[:, kept - 1 : kept + 1].mean(dim=1, keepdim=True)


class SoftLifeTrunk(nn.Module):
    """Stage 1: no token is removed, but in block a, from the first drop on, key j counts sigmoid(T (life_j - e_a)) in the softmax.

    Lives are standardised per image to the mean and deviation `life`, in blocks; e_a are the `ends`; prefix tokens always count fully.
    """

    def __init__(
        self, blocks: list[nn.Module], regressor: LifeRegressor, *, ends: SoftEnds, life: tuple[float, float], temperature: float
    ):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.regressor = regressor
        self.ends = ends
        self.life = life
        self.temperature = temperature

    @property
    def first(self) -> int:
        return self.ends.first

    def forward(self, x_BND: Tensor) -> Tensor:
        for step in self:
            x_BND = step(x_BND)
        return x_BND

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        """Steps in a row, so that timm's gradient checkpointing works; from the regressor on, the lives go along with the tokens."""
        yield from self.blocks[: self.first]
        yield self._with_lives
        for index in range(self.first, len(self.blocks)):
            yield functools.partial(self._soft_block, index)
        yield _tokens_alone

    def _with_lives(self, x_BND: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> tuple[Tensor, Tensor]:
        refuse_mask(attn_mask, is_causal)
        return x_BND, self.lives(x_BND)

    def _soft_block(self, index: int, tokens_and_lives: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x_BND, life_BP = tokens_and_lives
        # The logarithm in one: a weight that underflows to 0 would leave a gradient of 0 / 0.
        weight_BP = functional.logsigmoid(self.temperature * (life_BP - self.ends.of(index, life_BP)))
        prefix = weight_BP.new_zeros(len(weight_BP), self.regressor.num_prefix_tokens)
        mask_B11N = key_mask(torch.cat((prefix, weight_BP), dim=1)).to(x_BND.dtype)
        return self.blocks[index](x_BND, attn_mask=mask_B11N), life_BP

    def lives(self, x_BND: Tensor) -> Tensor:
        """How long each patch lives, in blocks from the model's start: (B, P)."""
        return self.standardise(self.regressor(x_BND).float())

    def standardise(self, logit_BP: Tensor) -> Tensor:
        mean, std = self.life
        return standardise(logit_BP, mean=mean, std=std)


def _tokens_alone(tokens_and_lives: tuple[Tensor, Tensor]) -> Tensor:
    return tokens_and_lives[0]


def regressor_price(block: int, tokens: int, prefix: int, dim: int) -> Extra:
    return Extra(
        name=REGRESSOR,
        place=f"block {block}",
        matmuls=dim * dim + (tokens - prefix) * dim,
        norms=LAYER_NORM * tokens * dim,
        params=2 * dim + dim * dim,
    )
