"""The scorers of DPS: what predicts a patch's impact from its token, what that costs, and what it learns from.

Shapes: B batch, N tokens (prefix included), P patches, K patches that stay, D width, E features and a constant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.core.plan import Extra
from autoslim.cost.flops import LAYER_NORM
from autoslim.methods.layers.adaptive_trunk import CountedTokens, Scorer
from autoslim.methods.layers.gumbel_noise import GumbelNoise
from autoslim.methods.layers.rectangular_block import RectangularBlock, block_rows
from autoslim.methods.layers.token_selector import TokenSelector
from autoslim.methods.layers.tokens import behind_prefix, order_by
from autoslim.models.placed_tokens import PlacedTokens, TokenIndices, Tokens, as_given, placed, places_at

SELECTOR = "patch selector"
"""The selectors' name in a plan and in a latency table."""

_RIDGE = 1e-5
"""On the diagonal of the normalised features' second moments, about 1: only for features that are exactly dependent."""

_FLOOR = 1e-4
"""Impact below this share of an image's mean counts as equal: the logarithm would spread out patches that are all negligible."""


class ImpactScorer(Scorer):
    """Predicts each patch's impact, (B, N, D) -> (B, P): a linear map of its normalised token, with `mlp` a small MLP added."""

    def __init__(self, dim: int, num_prefix_tokens: int, kind: str) -> None:
        super().__init__()
        self.dim, self.num_prefix_tokens, self.kind = dim, num_prefix_tokens, kind
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, 1)
        self.mlp: nn.Module | None = None
        if kind == "mlp":
            self.mlp = nn.Sequential(nn.Linear(dim, mlp_width(dim)), nn.GELU(), nn.Linear(mlp_width(dim), 1))
        # A generator of its own leaves the global one alone, so that equal recipes stay equal.
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in (*self.linear.parameters(), *(() if self.mlp is None else self.mlp.parameters())):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / dim**0.5)

    def of_tokens(self, x_BND: Tensor) -> Tensor:
        normed_BPD = self.norm(x_BND[:, self.num_prefix_tokens :])
        score_BP1: Tensor = self.linear(normed_BPD)
        if self.mlp is not None:
            score_BP1 = score_BP1 + self.mlp(normed_BPD)
        return score_BP1.squeeze(-1)

    def forward(self, tokens: CountedTokens) -> Tensor:
        return self.of_tokens(tokens.x_BND)

    @torch.no_grad()
    def start_from(self, x_BND: Tensor, wanted_BP: Tensor) -> None:
        """Sets the linear map, in closed form, to the ridge regression of `wanted_BP` on these tokens (B, N, D)."""
        # The MLP starts at random; the linear map is fitted to what it leaves to predict.
        patches_ND = self.norm(x_BND[:, self.num_prefix_tokens :]).flatten(0, 1).double()
        features_NE = torch.cat((patches_ND, torch.ones_like(patches_ND[:, :1])), dim=1)
        left_N = wanted_BP.flatten().double()
        if self.mlp is not None:
            left_N = left_N - self.mlp(patches_ND.to(x_BND.dtype)).squeeze(-1).double()
        # The second moments below are sums, not means: the ridge grows with the number of patches as they do.
        ridge_E = torch.eye(self.dim + 1, dtype=torch.float64, device=x_BND.device) * (_RIDGE * len(features_NE))
        solution_E = torch.linalg.solve(features_NE.T @ features_NE + ridge_E, features_NE.T @ left_N)
        self.linear.weight.copy_(solution_E[None, :-1])
        self.linear.bias.copy_(solution_E[-1:])

    def price(self, block: int, tokens: int) -> Extra:
        return price_of_selector(self.dim, self.kind, block, tokens - self.num_prefix_tokens)


def mlp_width(dim: int) -> int:
    """Hidden units of a scorer's MLP: with D^2 / 16 multiply-accumulates a patch, about 0.5 % of a block's 12 D^2."""
    return max(8, dim // 16)


def price_of_selector(dim: int, kind: str, block: int, patches: int) -> Extra:
    """The price of scoring `patches` patches in block `block`."""
    hidden = mlp_width(dim) if kind == "mlp" else 0
    weights = dim + hidden * (dim + 1)
    return Extra(
        name=SELECTOR,
        place=f"block {block}",
        matmuls=patches * weights,
        norms=LAYER_NORM * patches * dim,
        params=2 * dim + weights + 1 + (hidden + 1 if hidden else 0),
    )


class KeepSelected(TokenSelector):
    """Selects the `patches` patches of the highest scores, highest first."""

    def __init__(self, scorer: ImpactScorer, patches: int) -> None:
        super().__init__()
        self.scorer = scorer
        self.patches = patches

    @property
    def planned(self) -> int:
        return self.patches + self.scorer.num_prefix_tokens

    def rows(self, x_BND: Tensor) -> TokenIndices:
        return behind_prefix(self.best(self.scorer.of_tokens(x_BND)), num_prefix_tokens=self.scorer.num_prefix_tokens)

    def best(self, score_BP: Tensor) -> Tensor:
        """The patches of the highest scores (B, K), highest first."""
        return order_by(score_BP)[:, : self.staying(self.planned) - self.scorer.num_prefix_tokens]


class TaskScoredBlock(RectangularBlock):
    """A `RectangularBlock` whose selector learns from the task's loss: in training, what is computed of a patch depends on its score.

    The straight-through factor 1 + f - sg(f) of a patch with the score f is 1, and its gradient is that of f: a patch whose token should
    count more gets a higher score, and stays rather than another one. With `noise`, in deviations of scores, other patches are tried.
    """

    selector: KeepSelected

    def __init__(self, block: Any, selector: KeepSelected, noise: float) -> None:
        super().__init__(block, selector)
        self.noise = GumbelNoise(noise)

    def forward(self, tokens: Tokens, attn_mask: Tensor | None = None) -> Tokens:
        if not self.training:
            return super().forward(tokens, attn_mask)
        x_BND, places = placed(tokens)
        prefix = self.selector.scorer.num_prefix_tokens
        # Scored once: what is selected by noisy scores has to get the gradient.
        score_BP = self.selector.scorer.of_tokens(x_BND)
        best_BK = self.selector.best(self.noise(score_BP))
        rows = behind_prefix(best_BK, num_prefix_tokens=prefix)
        out_BQD = block_rows(self, x_BND, rows, attn_mask, places=places)
        score_BK = score_BP.gather(1, best_BK).to(out_BQD.dtype)
        # The parenthesis makes it exactly 1, whatever the scores.
        factor_BK1 = (1 + (score_BK - score_BK.detach())).unsqueeze(-1)
        scored_BQD = torch.cat((out_BQD[:, :prefix], out_BQD[:, prefix:] * factor_BK1), dim=1)
        return as_given(PlacedTokens(scored_BQD, places_at(places, rows)), tokens)


def log_impact(score_BP: Tensor, *, mean: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """What scorers predict, (B, P), from impact scores s (B, P): log s, centred per image, in standard deviations over all images.

    Where `score_BP` is a share of a batch, `mean` is `DistillationBatch.mean`.

    Images whose impact is concentrated on few patches keep a wider spread than others; adaptive counts depend on it.
    """
    log_BP = (score_BP.float() / score_BP.float().mean(dim=1, keepdim=True).clamp_min(1e-30)).clamp_min(_FLOOR).log()
    centred_BP = log_BP - log_BP.mean(dim=1, keepdim=True)
    variance = centred_BP.square().mean()
    return centred_BP / (variance if mean is None else mean(variance)).sqrt().clamp_min(1e-6)


class SelectedRows(nn.Module):
    """The selection alone, for the latency table: the block itself takes the tokens."""

    def __init__(self, selector: KeepSelected) -> None:
        super().__init__()
        self.selector = selector

    def forward(self, x_BND: Tensor) -> Tensor:
        rows = self.selector.rows(x_BND)
        assert isinstance(rows, Tensor)
        return rows
