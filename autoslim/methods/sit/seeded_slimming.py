"""Token slimming whose made tokens are seeded by the image's own patches (ours), in the place of SiT's learned rows.

In the paper's module (`token_slimming`) a made token's weights come from a row of W2, the same for every image. Here they come from the
patch at a fixed place of the same image, the token's seed: before anything is trained, a made token is near a token of the image. Each
patch is shared out between the seeds by a softmax, as slot attention does (Locatello et al., arXiv 2006.15055, section 2.1).

Shapes: B batch, N tokens (prefix included), P patches that enter, K patches that are made of them, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoslim.core.plan import Extra
from autoslim.cost.flops import LAYER_NORM
from autoslim.methods.sit.patch_mixture import PatchMixture

SEEDED_SLIMMING = "seeded token slimming"
"""The module's name in a plan and in a latency table."""

_LEAST_SHARE = 1e-6
"""Keeps the weights finite for a seed that no patch is shared out to."""


class SeededSlimming(PatchMixture):
    """X^ = A^T X with A_nk = p_nk / sum_n p_nk and p_nk = softmax over k of s (Wq LN(x_seed(k))) . (Wk LN(x_n)) / D.

    (B, N, D) -> (B, prefix + K, D). Patch n is shared out by p_nk between the made tokens and a slot with the logit 0, which is not made.
    Prefix tokens pass unchanged and are part of no mixture. s is a learned scalar. `sized` changes nothing of the module: sizes are sums of
    the shares that there are in any case.
    """

    def __init__(self, dim: int, patches: int, num_prefix_tokens: int, *, sized: bool = False) -> None:
        super().__init__(num_prefix_tokens)
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("seed", torch.zeros(patches, dtype=torch.long))

    def mixture(self, x_BPD: Tensor) -> Tensor:
        return self.mixture_and_shares(x_BPD)[0]

    def mixture_and_shares(self, x_BPD: Tensor) -> tuple[Tensor, Tensor]:
        """The shares are p; what goes to the slot that is not made is lost."""
        seed_K: Tensor = self.seed  # type: ignore[assignment]
        normal_BPD = self.norm(x_BPD)
        query_BKD = self.query(normal_BPD.index_select(1, seed_K))
        logits_BKP = torch.matmul(query_BKD, self.key(normal_BPD).transpose(1, 2)) * (self.scale / x_BPD.shape[2])
        # One more slot with the logit 0 takes what is unlike every seed. With a single seed, only it lets the shares differ at all.
        open_B1P = torch.zeros_like(logits_BKP[:, :1])
        share_BKP = torch.cat((logits_BKP, open_B1P), dim=1).softmax(dim=1)[:, :-1]
        return share_BKP / (share_BKP.sum(dim=2, keepdim=True) + _LEAST_SHARE), share_BKP

    @staticmethod
    def price(*, dim: int, patches: int, made: int, block: int, sized: bool = False) -> Extra:
        """The price of mixing `patches` into `made` in front of `block`: both layers, the products, the mixture, and the norm.

        Sizes cost nothing: the mixture has computed the shares that they are sums of.
        """
        return Extra(
            name=SEEDED_SLIMMING,
            place=f"block {block}",
            matmuls=(patches + made) * dim**2 + 2 * patches * made * dim,
            norms=LAYER_NORM * patches * dim,
            params=2 * dim + 2 * dim**2 + 1,
        )


@torch.no_grad()
def init_seeded(module: SeededSlimming, places_P2: Tensor, *, sharpness: float) -> None:
    """Seeds at places that are spread out, and similarity as the share: Wq = Wk = 1.

    `places_P2` are the entering patches' coordinates. The logits are then those of -sharpness |LN(x_n) - LN(x_seed)|^2 / D, up to what is
    the same for all seeds: normalised features all have the squared length D.
    """
    seed: Tensor = module.seed  # type: ignore[assignment]
    seed.copy_(spread_out(places_P2, len(seed)))
    for layer in (module.query, module.key):
        layer.weight.copy_(torch.eye(len(layer.weight)))
    module.scale.fill_(2 * sharpness)


def spread_out(places_P2: Tensor, count: int) -> Tensor:
    """Indices (count,) of places that are spread out: each next one brings all places nearest to their closest chosen one, in squares."""
    distance_PP = torch.cdist(places_P2.double(), places_P2.double()).square()
    nearest_P = distance_PP.amax(dim=0)
    chosen: list[int] = []
    for _ in range(count):
        left_P = torch.minimum(distance_PP, nearest_P).sum(dim=1)
        # A place that is chosen already saves nothing, but where none saves anything it must not be chosen twice.
        left_P[chosen] = torch.inf
        chosen.append(int(left_P.argmin()))
        nearest_P = torch.minimum(nearest_P, distance_PP[chosen[-1]])
    return torch.tensor(chosen)
