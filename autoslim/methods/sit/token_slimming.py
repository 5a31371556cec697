"""SiT's two modules (arXiv 2111.12624): token slimming, which mixes P patches into K, and its reverse, which only training needs.

Ours, where the paper says nothing: the initialisation. A slimming module starts as the average of similar patches, the reverse one as the
linear map that restores the teacher's patches best. Both are fitted on a few images, so that the model is close to the dense one before
anything is trained. `init_random` is the start in the code, which has none of its own for the modules. Ours, too: the slimming module's
second layer has no bias. The code's has one, but the softmax over the patches cancels it.

Shapes: B batch, N tokens (prefix included), P patches that enter, K patches that are made of them, D width, H hidden units, S samples
(patches of all images), T targets.
"""

from __future__ import annotations

import torch
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn import functional

from autoslim.core.plan import Extra
from autoslim.cost.flops import LAYER_NORM
from autoslim.methods.sit.patch_mixture import PatchMixture

TOKEN_SLIMMING = "token slimming"  # noqa: S105 # nosec B105 - a token of an image
"""The module's name in a plan and in a latency table."""

_RIDGE = 1e-4
"""On the diagonal of the regressions, as a share of its mean: hidden units are highly correlated."""

_ROUNDS = 25
"""Lloyd iterations of the k-means; a start for training needs no convergence."""

_SMALL = 0.02
"""Standard deviation of randomly initialised weights, as in the code."""

_SPREAD = 1.4
"""Standard deviation of GELU's inputs in random directions: large enough to reach its non-linear part."""


class TokenSlimming(PatchMixture):
    """X^ = A^T X with A = softmax over the patches of s W2 GELU(W1 LN(X)): (B, N, D) -> (B, prefix + K, D).

    s is a learned scalar. Prefix tokens pass unchanged and are part of no mixture. W2 has a row per token that is made, so that the
    module fits one image size.

    With `sized`, patches are shared out by the softmax over the made tokens of the same logits and a bias b, which the mixture does not
    see (ours).
    """

    def __init__(self, dim: int, patches: int, num_prefix_tokens: int, *, sized: bool = False) -> None:
        super().__init__(num_prefix_tokens)
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, dim // 2)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(dim // 2, patches, bias=False)
        self.scale = nn.Parameter(torch.ones(1))
        self.size_bias = nn.Parameter(torch.zeros(patches)) if sized else None

    def mixture(self, x_BPD: Tensor) -> Tensor:
        return self._logits(x_BPD).softmax(dim=1).transpose(1, 2)

    def mixture_and_shares(self, x_BPD: Tensor) -> tuple[Tensor, Tensor]:
        assert self.size_bias is not None, "sizes of a module that has none"
        logits_BPK = self._logits(x_BPD)
        shares_BPK = (logits_BPK + self.size_bias).softmax(dim=2)
        return logits_BPK.softmax(dim=1).transpose(1, 2), shares_BPK.transpose(1, 2)

    def _logits(self, x_BPD: Tensor) -> Tensor:
        logits_BPK: Tensor = self.fc2(self.act(self.fc1(self.norm(x_BPD)))) * self.scale
        return logits_BPK

    @staticmethod
    def price(*, dim: int, patches: int, made: int, block: int, sized: bool = False) -> Extra:
        """The price of mixing `patches` into `made` in front of `block`: both layers, the mixture, and the norm."""
        hidden = dim // 2
        weights = dim * hidden + hidden * made
        return Extra(
            name=TOKEN_SLIMMING,
            place=f"block {block}",
            matmuls=patches * weights + patches * made * dim,
            norms=LAYER_NORM * patches * dim,
            params=2 * dim + weights + hidden + 1 + sized * made,
        )


class ReverseTokenSlimming(nn.Module):
    """RTSM: mixes tokens K -> 4P -> P, then channels D -> 4D -> D with a residual: (B, K, D) -> (B, P, D)."""

    def __init__(self, dim: int, made: int, patches: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.mixer = Mlp(made, 4 * patches, patches)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x_BKD: Tensor) -> Tensor:
        restored_BPD: Tensor = self.mixer(self.norm1(x_BKD).transpose(1, 2)).transpose(1, 2)
        out_BPD: Tensor = restored_BPD + self.mlp(self.norm2(restored_BPD))
        return out_BPD


@torch.no_grad()
def init_slimming(module: TokenSlimming, x_BPD: Tensor, made: int, *, sharpness: float) -> None:
    """Initialises token k as the average of the patches that are most similar to prototype k, on the patches `x_BPD`. Ours.

    The first `made` tokens have prototypes c_k, the centres of a k-means over LN(X); further ones start as the average of all patches.
    Patch n belongs to prototype k with probability p_nk = softmax over k of -sharpness |LN(x_n) - c_k|^2 / (D variance). With the logits
    log p_nk, the softmax over the patches makes A each group's p_nk, normalised: a soft average of the group.
    """
    # 1. The features that the module sees, and their principal components, largest variance first.
    hidden, dim = module.fc1.out_features, module.fc1.in_features
    _init_weights(module)
    normal_SD = module.norm(x_BPD).flatten(0, 1)
    mean_D = normal_SD.mean(dim=0)
    deviation = (normal_SD - mean_D).square().mean().sqrt() + 1e-6
    count = hidden // 3
    components_DD = torch.linalg.eigh(((normal_SD - mean_D).T @ (normal_SD - mean_D)).double()).eigenvectors.flip(1)
    components_HD = components_DD.T[:count].to(x_BPD.dtype)
    # 2. W1: two thirds of the hidden units carry the components with both signs, because GELU(z) - GELU(-z) = z makes them linear features;
    # the rest are random directions, scaled so that GELU bends, for what is not linear.
    module.fc1.weight.mul_(_SPREAD / (_SMALL * dim**0.5) / deviation)
    module.fc1.weight[: 2 * count] = torch.cat((components_HD, -components_HD))
    module.fc1.bias.copy_(-module.fc1.weight @ mean_D)
    # 3. The memberships log p_nk that the module should compute.
    prototype_KD = prototypes(normal_SD, made)
    distance_SK = torch.cdist(normal_SD, prototype_KD).square() / (dim * deviation**2)
    logits_SK = (-sharpness * distance_SK).log_softmax(dim=1)
    # 4. W2 by least squares. Its bias is cancelled by the softmax over the patches, but not by the one that shares them out.
    weight_KH, bias_K = _least_squares(module.act(module.fc1(normal_SD)), logits_SK)
    module.fc2.weight.zero_()
    module.fc2.weight[:made] = weight_KH
    if module.size_bias is not None:
        # A further token has an even share of what is left of a patch by the others, which is next to nothing.
        module.size_bias.fill_(logits_SK.mean())
        module.size_bias[:made] = bias_K


def prototypes(x_SD: Tensor, count: int) -> Tensor:
    """The centres (count, D) of a k-means over the samples, initialised by k-means++ (Arthur and Vassilvitskii, 2007); deterministic."""
    generator = torch.Generator().manual_seed(0)
    centre_KD, nearest_S = x_SD[:1], torch.cdist(x_SD, x_SD[:1])[:, 0].square()
    # k-means++: the next centre is a sample, drawn in proportion to its squared distance from the nearest centre so far.
    for draw in torch.rand(count - 1, generator=generator).tolist():
        cumulative_S = nearest_S.double().cumsum(0)
        chosen = torch.searchsorted(cumulative_S, draw * cumulative_S[-1:]).clamp(max=len(x_SD) - 1)
        centre_KD = torch.cat((centre_KD, x_SD[chosen]))
        nearest_S = torch.minimum(nearest_S, torch.cdist(x_SD, x_SD[chosen])[:, 0].square())
    # Lloyd: assign every sample to its nearest centre, move centres to the means; an empty cluster keeps its centre.
    for _ in range(_ROUNDS):
        member_SK = functional.one_hot(torch.cdist(x_SD, centre_KD).argmin(dim=1), count).to(x_SD.dtype)
        members_K1 = member_SK.sum(dim=0).unsqueeze(-1)
        centre_KD = torch.where(members_K1 > 0, member_SK.T @ x_SD / members_K1.clamp(min=1), centre_KD)
    return centre_KD


@torch.no_grad()
def init_reverse(module: ReverseTokenSlimming, x_BKD: Tensor, target_BPD: Tensor) -> None:
    """Initialises the module to restore `target_BPD` as well as a linear mixture of the tokens `x_BKD` can. Ours."""
    _init_weights(module)
    # 1. norm1's scale and shift undo the normalisation per channel, as well as a regression of X on LN(X) can: tokens keep their scale.
    normal_BKD = module.norm1(x_BKD)
    normal_SD, x_SD = normal_BKD.flatten(0, 1), x_BKD.flatten(0, 1)
    centred_SD = normal_SD - normal_SD.mean(dim=0)
    gain_D = (centred_SD * x_SD).mean(dim=0) / (centred_SD.square().mean(dim=0) + 1e-6)
    module.norm1.weight.copy_(gain_D)
    module.norm1.bias.copy_(x_SD.mean(dim=0) - gain_D * normal_SD.mean(dim=0))
    # 2. The mixture of tokens that restores the patches best, the same for all channels.
    made = x_BKD.shape[1]
    rows_BDK, target_BDP = module.norm1(x_BKD).transpose(1, 2), target_BPD.transpose(1, 2)
    weight_PK, bias_P = _least_squares(rows_BDK.flatten(0, 1), target_BDP.flatten(0, 1))
    # 3. Through the mixer's GELU with GELU(z) - GELU(-z) = z: two hidden units per token. The MLP on the channels starts near 0.
    fc1, fc2 = module.mixer.fc1, module.mixer.fc2
    identity_KK = torch.eye(made, dtype=weight_PK.dtype, device=weight_PK.device)
    for sign, start in ((1.0, 0), (-1.0, made)):
        rows = slice(start, start + made)
        fc1.weight[rows] = sign * identity_KK
        fc2.weight[:, rows] = sign * weight_PK
    fc2.bias.copy_(bias_P)


@torch.no_grad()
def init_random(module: nn.Module) -> None:
    """Small random weights and no biases, as the code initialises every layer; drawn from torch's generator for the CPU."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.copy_(nn.init.trunc_normal_(torch.empty(layer.weight.shape), std=_SMALL))
            if layer.bias is not None:
                layer.bias.zero_()


def _init_weights(module: nn.Module) -> None:
    """Random weights and zero biases, the same at every call: models of one dense model differ only by what was measured."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        if parameter.ndim == 2:
            parameter.copy_(_SMALL * torch.randn(parameter.shape, generator=generator))
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            layer.bias.zero_()


def _least_squares(x_SD: Tensor, target_ST: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (T, D) and bias (T,) of the ridge regression over S samples; in float64, because the features are nearly dependent."""
    x, target = x_SD.double(), target_ST.double()
    mean_D, mean_T = x.mean(dim=0), target.mean(dim=0)
    x, target = x - mean_D, target - mean_T
    gram_DD = x.T @ x
    ridge = _RIDGE * gram_DD.diagonal().mean() + 1e-12
    gram_DD.diagonal().add_(ridge)
    weight_TD = torch.linalg.solve(gram_DD, x.T @ target).T
    bias_T = mean_T - weight_TD @ mean_D
    return weight_TD.to(x_SD.dtype), bias_T.to(x_SD.dtype)
