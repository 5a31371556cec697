"""How long patches live (arXiv 2304.04926): the regressor, the selectors that drop patches by it, and the soft stage that trains it.

Shapes: B batch, N tokens, P patches, D width.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoslim.core.plan import Extra
from autoslim.core.recipe import Knobs
from autoslim.core.shape import ViTShape
from autoslim.cost.flops import LAYER_NORM
from autoslim.methods.layers.adaptive_trunk import CountedTokens, Scorer
from autoslim.methods.layers.groups import unit_length
from autoslim.methods.layers.gumbel_noise import GumbelNoise
from autoslim.methods.layers.sublayer import RemovedSublayer
from autoslim.methods.layers.token_selector import TokenSelector
from autoslim.methods.layers.token_trunk import refuse_mask
from autoslim.methods.layers.tokens import behind_prefix, key_mask, order_by, standardise
from autoslim.models.placed_tokens import TokenIndices

REGRESSOR = "life regressor"
"""The regressor's name in a plan and in a latency table."""

LIKENESS = "likeness of patches"
"""The name of `likeness_to_longer_lived` in a plan and in a latency table."""

_START = 0.1
"""Root mean square of W where it does not start uniform; ours. It only sets how far one optimiser step turns W."""


class LifeRegressor(nn.Module):
    """logit_j = p_j^T W c on normalised tokens: (B, N, D) -> (B, P). c is the class token, or the mean patch where there is none.

    W starts uniform between 0 and 1, as in the code, from torch's global generator. The tokens are normalised, so that their elements
    sum to 0 and W counts without its mean.

    With a `diversity` above 0, lives know of each other (ours; as in maximal marginal relevance, Carbonell and Goldstein 1998): with z
    the logits in deviations, z_j - diversity * max(0, max of cos(p_i, p_j) over the patches i with z_i > z_j).
    """

    def __init__(self, dim: int, num_prefix_tokens: int, *, class_token: bool = True, diversity: float = 0.0) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.diversity = diversity
        self.class_token = class_token and num_prefix_tokens > 0
        self.norm = nn.LayerNorm(dim)
        self.weight = nn.Parameter(torch.rand(dim, dim))

    @classmethod
    def of_shape(cls, shape: ViTShape, knobs: Knobs | None = None) -> LifeRegressor:
        diversity = (knobs or {}).get("diversity", 0.0)
        return cls(shape.dim, shape.prefix_tokens, class_token=shape.class_token, diversity=diversity)

    @torch.no_grad()
    def init_from_attention(self, block: Any) -> None:
        """W = sum_h W_k^T W_q: the class token's attention logits in `block`, summed over the heads, without biases (ours)."""
        if isinstance(block.attn, RemovedSublayer):
            # An earlier step has removed the attention: a scaled identity, the patches' likeness to the class token.
            self.weight.copy_(torch.eye(len(self.weight)) / len(self.weight) ** 0.5)
            return
        # norm1's scale is folded in, because the regressor's own norm starts without one.
        inner = block.attn.qkv.out_features // 3
        scale_D = block.norm1.weight
        queries_ED, keys_ED = (
            rows * scale_D for rows in (block.attn.qkv.weight[:inner], block.attn.qkv.weight[inner : 2 * inner])
        )
        self.set_start(keys_ED.T @ queries_ED)

    @torch.no_grad()
    def set_start(self, start_DD: Tensor) -> None:
        """W = `start_DD`, scaled. Lives are standardised and do not depend on the scale, but the effect of an optimiser step does."""
        scale = start_DD.square().mean().sqrt()
        if scale > 0:
            self.weight.copy_(start_DD * (_START / scale))

    def forward(self, x_BND: Tensor) -> Tensor:
        x_BND = self.norm(x_BND)
        patches_BPD = x_BND[:, self.num_prefix_tokens :]
        class_BD = x_BND[:, 0] if self.class_token else patches_BPD.mean(dim=1)
        # W c first: D^2 products once per image, not once per patch.
        logit_BP = torch.matmul(patches_BPD, nn.functional.linear(class_BD, self.weight).unsqueeze(-1)).squeeze(-1)
        if not self.diversity:
            return logit_BP
        logit_BP = standardise(logit_BP, mean=0.0, std=1.0)
        return logit_BP - self.diversity * likeness_to_longer_lived(patches_BPD, logit_BP)


def likeness_to_longer_lived(patches_BPD: Tensor, life_BP: Tensor) -> Tensor:
    """For each patch the cosine to the most similar of those with longer lives, at least 0: (B, P)."""
    unit_BPD = unit_length(patches_BPD)
    cosine_BPP = unit_BPD @ unit_BPD.transpose(1, 2)
    # Row j, column i: patch i lives longer than patch j. The longest life has no such column, and loses nothing.
    longer_BPP = (life_BP.unsqueeze(1) > life_BP.unsqueeze(2)).to(cosine_BPP.dtype)
    return (cosine_BPP * longer_BPP).amax(dim=2)


class LikenessOfPatches(nn.Module):
    """The likeness alone, for the latency table."""

    def __init__(self, num_prefix_tokens: int) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens

    def forward(self, x_BND: Tensor) -> Tensor:
        patches_BPD = x_BND[:, self.num_prefix_tokens :]
        return likeness_to_longer_lived(patches_BPD, patches_BPD[:, :, 0])


class KeepLongestLived(TokenSelector):
    """The first drop at fixed counts: sorts the patches by life once and keeps the first `patches`; later drops are slices."""

    def __init__(self, regressor: LifeRegressor, patches: int, life: tuple[float, float]) -> None:
        super().__init__()
        self.regressor = regressor
        self.patches = patches
        self.life = life

    @property
    def planned(self) -> int:
        return self.patches + self.regressor.num_prefix_tokens

    def rows(self, x_BND: Tensor) -> TokenIndices:
        # Standardising does not change the order, so that the finished model leaves it out.
        stay = self.staying(self.planned) - self.regressor.num_prefix_tokens
        kept_BK = order_by(self.regressor(x_BND))[:, :stay]
        return behind_prefix(kept_BK, num_prefix_tokens=self.regressor.num_prefix_tokens)

    def standardise(self, logit_BP: Tensor) -> Tensor:
        mean, std = self.life
        return standardise(logit_BP, mean=mean, std=std)


class Lives(Scorer):
    """The first drop's scores in threshold mode: lives in blocks, standardised per image to `life`, (mean, deviation).

    The moments are buffers, because `calibrate` changes them.
    """

    def __init__(self, regressor: LifeRegressor, life: tuple[float, float]) -> None:
        super().__init__()
        self.regressor = regressor
        self.register_buffer("mean", torch.tensor(float(life[0])))
        self.register_buffer("std", torch.tensor(float(life[1])))

    def forward(self, tokens: CountedTokens) -> Tensor:
        # It is in front of every drop, so that no token is padding yet.
        return self.standardise(self.regressor(tokens.x_BND))

    def standardise(self, logit_BP: Tensor) -> Tensor:
        mean: Tensor = self.mean  # type: ignore[assignment]
        std: Tensor = self.std  # type: ignore[assignment]
        return standardise(logit_BP.to(torch.promote_types(logit_BP.dtype, torch.float32)), mean=mean, std=std)

    def price(self, block: int, tokens: int) -> Extra:
        return regressor_price(block, tokens, self.regressor.num_prefix_tokens, len(self.regressor.weight))


@torch.no_grad()
def patch_lives(model: nn.Module, images_B3HW: Tensor) -> Tensor:
    """The predicted life of each patch (B, P), in blocks from the model's start, in a slimmed model or in its soft stage.

    Patches are in reading order; in every image, lives have the schedule's mean and standard deviation.
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
    # `KeepLongestLived` sorts by the logits as they are, so that its lives have to be standardised here.
    return holder.standardise(logits_BP[0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftEnds:
    """Where lives end in the soft stage, per block from the first drop on: e_a of `SoftLifeTrunk`.

    The regressor is in front of block `regressor`, and no life ends before block `first`. `indices[i]` is the life, in blocks, at which
    block `first` + i ends it. Where `kept` is given, `kept[i]` is the number of patches that the pruned form leaves there, and the end
    is halfway between the life of the last of them and the next.
    """

    regressor: int
    first: int
    indices: tuple[int, ...]
    kept: tuple[int, ...] | None

    def of(self, block: int, life_BP: Tensor) -> Tensor | int:
        """The end of lives in `block`, given the lives of all patches: one per image (B, 1), or one for all."""
        place = block - self.first
        if self.kept is None:
            return self.indices[place]
        sorted_BP = life_BP.sort(dim=1, descending=True).values
        kept = self.kept[place]
        if kept >= life_BP.shape[1]:
            # No patch ends here: an end far below the shortest life.
            return sorted_BP[:, -1:] - len(self.indices)
        return sorted_BP[:, kept - 1 : kept + 1].mean(dim=1, keepdim=True)


class SoftLifeTrunk(nn.Module):
    """The soft stage: no token is removed; in block a, from the first drop on, key j has weight sigmoid(T (life_j - e_a)) in the softmax.

    Lives are standardised per image to the mean and deviation `life`, in blocks. e_a are the `ends`, T is `temperature`. Prefix tokens
    always have weight 1. With `noise`, in deviations of lives, lives are longer or shorter by chance while they are trained.
    """

    def __init__(
        self,
        blocks: list[nn.Module],
        regressor: LifeRegressor,
        *,
        ends: SoftEnds,
        life: tuple[float, float],
        temperature: float,
        noise: float = 0.0,
    ):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.regressor = regressor
        self.ends = ends
        self.life = life
        self.temperature = temperature
        self.noise = GumbelNoise(noise * life[1])

    @property
    def first(self) -> int:
        """The block behind the regressor."""
        return self.ends.regressor

    def forward(self, x_BND: Tensor) -> Tensor:
        for step in self:
            x_BND = step(x_BND)
        return x_BND

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        """A flat sequence of steps, as timm's gradient checkpointing needs; behind the regressor, lives go along with the tokens."""
        yield from self.blocks[: self.first]
        yield self._with_lives
        for index in range(self.first, len(self.blocks)):
            yield functools.partial(self._block if index < self.ends.first else self._soft_block, index)
        yield _tokens_alone

    def _with_lives(
        self, x_BND: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, **unused: None
    ) -> tuple[Tensor, Tensor]:
        refuse_mask(attn_mask, is_causal)
        return x_BND, self.noise(self.lives(x_BND))

    def _block(self, index: int, tokens_and_lives: tuple[Tensor, Tensor], **unused: None) -> tuple[Tensor, Tensor]:
        x_BND, life_BP = tokens_and_lives
        return self.blocks[index](x_BND), life_BP

    def _soft_block(self, index: int, tokens_and_lives: tuple[Tensor, Tensor], **unused: None) -> tuple[Tensor, Tensor]:
        x_BND, life_BP = tokens_and_lives
        # log sigmoid in one function: the log of a weight that has underflowed to 0 would have the gradient 0 / 0.
        weight_BP = functional.logsigmoid(self.temperature * (life_BP - self.ends.of(index, life_BP)))
        # Prefix tokens have the log weight 0. In the released code the class token fades as well, in training alone.
        prefix = weight_BP.new_zeros(len(weight_BP), self.regressor.num_prefix_tokens)
        mask_B11N = key_mask(torch.cat((prefix, weight_BP), dim=1)).to(x_BND.dtype)
        return self.blocks[index](x_BND, attn_mask=mask_B11N), life_BP

    def lives(self, x_BND: Tensor) -> Tensor:
        """Each patch's life (B, P), in blocks from the model's start."""
        return self.standardise(self.regressor(x_BND).float())

    def standardise(self, logit_BP: Tensor) -> Tensor:
        mean, std = self.life
        return standardise(logit_BP, mean=mean, std=std)


def _tokens_alone(tokens_and_lives: tuple[Tensor, Tensor], **unused: None) -> Tensor:
    return tokens_and_lives[0]


def likeness_price(block: int, tokens: int, prefix: int, dim: int) -> Extra:
    """The price of the cosines of all pairs of patches, in front of `block`."""
    return Extra(name=LIKENESS, place=f"block {block}", matmuls=(tokens - prefix) ** 2 * dim, norms=0)


def regressor_price(block: int, tokens: int, prefix: int, dim: int) -> Extra:
    """The price of the regressor in front of `block`: W c once, its product with every patch, and the norm of all tokens."""
    return Extra(
        name=REGRESSOR,
        place=f"block {block}",
        matmuls=dim * dim + (tokens - prefix) * dim,
        norms=LAYER_NORM * tokens * dim,
        params=2 * dim + dim * dim,
    )
