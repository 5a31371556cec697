"""Token counts that differ from image to image, within a cap per drop: ours, where the papers have fixed counts.

A drop keeps the patches whose score is above its threshold, at least one and at most `cap`. Every image's own tokens come first, so
that a batch is as long as its longest image. What is behind an image's count is padding: it is masked out of every softmax as a key, and
nothing reads its residuals. One model has two forms with the same logits:

- with *dynamic shapes*, in eager mode: a batch is as long as its longest image; a batch of one has no mask;
- with *static shapes*, wherever a graph is traced (torch.compile, torch.export, ONNX, torch.jit.trace and with it fvcore): every drop
  leaves `cap` patches and a mask. The FLOPs counted are those of the caps, as in the plan.

Shapes: B batch, N tokens (prefix included), K tokens that stay, P patches, D width.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from autoslim.core.plan import Extra
from autoslim.core.shape import ViTShape
from autoslim.errors import UnsupportedModelError
from autoslim.methods.layers.rectangular_block import block_rows
from autoslim.methods.layers.token_trunk import Stage, Trunk, refuse_mask, run_block, tokens_alone
from autoslim.methods.layers.tokens import behind_prefix, key_mask, order_by
from autoslim.models.placed_tokens import TokenIndices, gather_tokens, places_at


class CountedTokens(NamedTuple):
    """A padded batch of tokens (B, N, D): of image b the first `count_B[b]`, prefix included, are its own and the others padding.

    `masked` is False where no image has padding, `static` says which form is running. `score_BP` are the patches' scores, sorted as
    the last drop has left them; `places` are as in `PlacedTokens`.
    """

    x_BND: Tensor
    count_B: Tensor
    score_BP: Tensor | None
    masked: bool
    static: bool
    places: TokenIndices | None = None

    def padding_BN(self) -> Tensor:
        """True where a token is padding."""
        return torch.arange(self.x_BND.shape[1], device=self.x_BND.device) >= self.count_B[:, None]

    def mask_B11N(self) -> Tensor | None:
        """The additive attention mask that hides padding as keys; None where there is no padding."""
        if not self.masked:
            return None
        # Minus infinity takes padding out of the softmax exactly, so that both forms give the same logits.
        padding_BN = self.padding_BN()
        return key_mask(torch.zeros_like(padding_BN, dtype=self.x_BND.dtype).masked_fill(padding_BN, float("-inf")))


class Scorer(nn.Module, abc.ABC):
    """Scores patches for a drop. Statistics over an image must leave out `CountedTokens.padding_BN`."""

    @abc.abstractmethod
    def forward(self, tokens: CountedTokens) -> Tensor:
        """The score of each patch (B, P); that of padding is ignored."""

    @abc.abstractmethod
    def price(self, block: int, tokens: int) -> Extra:
        """The price of scoring `tokens` tokens, prefix included, in front of or inside `block`, as it appears in the plan."""


class TokenDrop(nn.Module):
    """Keeps an image's patches with a score above `threshold`, at least one and at most `cap`, in falling order of score.

    Without a scorer, the scores and the order of an earlier drop are used again, and dropping is slicing.
    """

    def __init__(self, *, cap: int, threshold: float, num_prefix_tokens: int, scorer: Scorer | None) -> None:
        super().__init__()
        self.cap = cap
        self.num_prefix_tokens = num_prefix_tokens
        self.scorer = scorer
        self.register_buffer("threshold", torch.tensor(float(threshold)))

    def forward(self, tokens: CountedTokens) -> CountedTokens:
        return self.select(tokens)[1]

    def select(self, tokens: CountedTokens) -> tuple[TokenIndices, CountedTokens]:
        """The tokens that stay: their indices, or a number of tokens from the front; and the tokens themselves."""
        prefix = self.num_prefix_tokens
        score_BP, order_BP = self._sorted(tokens)
        threshold: Tensor = self.threshold  # type: ignore[assignment]
        # At least one patch, so that heads that pool patches and later drops always have one.
        kept_count_B = (score_BP > threshold).sum(dim=1).clamp(min=1, max=self.cap)
        # A traced graph cannot depend on counts: it keeps the cap and, as if one image kept nothing, always masks.
        shortest, longest = 0, min(self.cap, score_BP.shape[1])
        if not tokens.static:
            # The batch is as long as its longest image. This is the one point where the host waits for the device.
            shortest, longest = torch.stack(kept_count_B.aminmax()).tolist()
        rows = prefix + longest if order_BP is None else behind_prefix(order_BP[:, :longest], num_prefix_tokens=prefix)
        kept = CountedTokens(
            x_BND=gather_tokens(tokens.x_BND, rows),
            count_B=kept_count_B + prefix,
            score_BP=score_BP[:, :longest],
            masked=shortest < longest,
            static=tokens.static,
            places=places_at(tokens.places, rows),
        )
        return rows, kept

    def _sorted(self, tokens: CountedTokens) -> tuple[Tensor, Tensor | None]:
        """Scores in falling order, padding last at minus infinity, and the patches they belong to (None: already in this order)."""
        score_BP = tokens.score_BP if self.scorer is None else self.scorer(tokens)
        assert score_BP is not None, "the first drop has a scorer"
        if tokens.masked:
            # Padding must be behind an image's own patches, and above no threshold.
            score_BP = score_BP.masked_fill(tokens.padding_BN()[:, self.num_prefix_tokens :], float("-inf"))
        if self.scorer is None:
            return score_BP, None
        order_BP = order_by(score_BP)
        return score_BP.gather(1, order_BP), order_BP

    def token_map(self, tokens: CountedTokens) -> Tensor:
        """Which entering token each token that stays is: (B, K, N); rows of padding are zero."""
        rows, kept = self.select(tokens)
        batch, entering, _ = tokens.x_BND.shape
        identity_NN = torch.eye(entering, dtype=tokens.x_BND.dtype, device=tokens.x_BND.device)
        map_BKN = gather_tokens(identity_NN.expand(batch, -1, -1), rows)
        return map_BKN.masked_fill(kept.padding_BN()[:, :, None], 0.0)


class TokenDropBlock(nn.Module):
    """A `RectangularBlock` with a drop inside: tokens that stay are computed, keys and values are those of all the image's tokens."""

    def __init__(self, block: Any, drop: TokenDrop) -> None:
        super().__init__()
        self.drop = drop
        self.norm1, self.attn, self.ls1, self.drop_path1 = block.norm1, block.attn, block.ls1, block.drop_path1
        self.norm2, self.mlp, self.ls2, self.drop_path2 = block.norm2, block.mlp, block.ls2, block.drop_path2

    def forward(self, tokens: CountedTokens) -> CountedTokens:
        # The mask is that of the tokens that enter, because they are the keys; the counts are of those that stay.
        rows, kept = self.drop.select(tokens)
        return kept._replace(x_BND=block_rows(self, tokens.x_BND, rows, tokens.mask_B11N(), places=tokens.places))

    def token_map(self, tokens: CountedTokens) -> Tensor:
        return self.drop.token_map(tokens)


class AdaptiveStage(Stage):
    """One block and the drop in front of it (None: the tokens pass unchanged)."""

    pre_block: TokenDrop | None

    def __init__(self, block: nn.Module, pre_block: TokenDrop | None) -> None:
        super().__init__(block, pre_block)

    def forward(self, tokens: CountedTokens, **unused: None) -> CountedTokens:  # type: ignore[override]
        """Some of timm's models hand each part arguments besides the tokens, which the first one has checked."""
        return self.compute(self.enter(tokens))

    def compute(self, tokens: CountedTokens) -> CountedTokens:
        if isinstance(self.block, TokenDropBlock):
            inside: CountedTokens = self.block(tokens)
            return inside
        return tokens._replace(x_BND=run_block(self.block, tokens, mask=tokens.mask_B11N()))

    @property
    def drop(self) -> TokenDrop | None:
        """The drop in front of the block or inside it; there are never both."""
        return self.block.drop if isinstance(self.block, TokenDropBlock) else self.pre_block


class AdaptiveTrunk(Trunk):
    """A trunk with drops in front of or inside its blocks. `form` is `static` or `dynamic` inside the contexts of that name, else empty."""

    def __init__(self, blocks: list[nn.Module], pre_blocks: Mapping[int, TokenDrop]) -> None:
        super().__init__(blocks, pre_blocks)
        self.stages = nn.ModuleList(AdaptiveStage(block, pre_blocks.get(index)) for index, block in enumerate(blocks))
        self.form = ""

    def __iter__(self) -> Iterator[Any]:
        """A flat sequence of modules, as timm's gradient checkpointing needs; the counts go along with the tokens from end to end."""
        yield self._enter
        yield from self.stages
        yield tokens_alone

    def _enter(self, x_BND: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, **unused: None) -> CountedTokens:
        refuse_mask(attn_mask, is_causal)
        # A traced graph keeps the shapes of its example, so that it must not depend on the example's counts.
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        batch, tokens, _ = x_BND.shape
        return CountedTokens(
            x_BND=x_BND,
            count_B=torch.full((batch,), tokens, device=x_BND.device),
            score_BP=None,
            masked=False,
            static=self.form == "static" or (traced and self.form != "dynamic"),
        )

    def drops(self) -> list[tuple[int, TokenDrop]]:
        """Every drop with the index of its block."""
        drops = ((index, stage.drop) for index, stage in enumerate(self.stages))
        return [(index, drop) for index, drop in drops if isinstance(drop, TokenDrop)]


def refuse_pooling(method: str, shape: ViTShape) -> None:
    """Raises UnsupportedModelError unless the head reads prefix tokens alone; a pooling head would read padding, too."""
    if shape.pool == "token" and not shape.reads_prefix_alone:
        raise UnsupportedModelError(
            f"{method}: token counts that differ from image to image need a classifier; this model's patches are features, too"
        )
    if shape.pool != "token":
        raise UnsupportedModelError(
            f"{method}: token counts that differ from image to image need pooling 'token'; this model's is {shape.pool!r}"
        )


def static_shapes(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Inside the context, an adaptive model runs every image at its caps: the worst case, for FLOPs counters."""
    return _in_form(model, "static")


def dynamic_shapes(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Inside the context, an adaptive model removes tokens even while it is traced: to count the FLOPs of one image."""
    return _in_form(model, "dynamic")


def open_thresholds(model: nn.Module) -> nn.Module:
    """Opens all thresholds of an adaptive model, in place, so that every image has as many tokens as the caps allow."""
    if isinstance(model.blocks, AdaptiveTrunk):
        for _, drop in model.blocks.drops():
            threshold: Tensor = drop.threshold  # type: ignore[assignment]
            threshold.fill_(float("-inf"))
    return model


@contextlib.contextmanager
def _in_form(model: nn.Module, form: str) -> Iterator[None]:
    trunk = model.blocks
    if not isinstance(trunk, AdaptiveTrunk):
        yield
        return
    before, trunk.form = trunk.form, form
    try:
        yield
    finally:
        trunk.form = before
