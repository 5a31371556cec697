"""Which patches stay: those that are spread over what the image shows.

*In each image* (`SpreadTokens`): the patches are dealt by turns into first and second ones. A first one that is very similar to some
second one adds little to them, so those with the highest similarity go. It is the choice of ToMe (arXiv 2210.09461), on tokens instead
of keys, for a quarter of all pairs' products. Where half of the patches or more have to go, all first ones do, and the second ones are
dealt again.

*At fixed places* (`covering_masks`): the places whose tokens represent those of all places best, over many images, found block by block
from the last one (`patch_slimming.coverage` without scores). Nothing is chosen at run time.

Shapes: B batch, N tokens that enter (prefix included), M patches that are compared, S first and T second ones of them, K patches that
stay, P places, D width, L blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoslim.core.plan import Extra
from autoslim.core.shape import ViTShape
from autoslim.methods.layers.groups import Nearness, unit_length
from autoslim.methods.layers.token_selector import TokenSelector
from autoslim.methods.layers.tokens import behind_prefix, order_by
from autoslim.methods.patch_slimming.impact import order_of
from autoslim.methods.patch_slimming.pyramid import Counts, chosen_blocks
from autoslim.models.placed_tokens import TokenIndices

CHOICE = "token choice"
"""The choice's name in a plan and in a latency table."""


class SpreadTokens(TokenSelector):
    """Chooses `tokens` tokens of each image, the prefix among them, in the order in which they enter."""

    def __init__(self, tokens: int, num_prefix_tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.num_prefix_tokens = num_prefix_tokens

    def rows(self, x_BND: Tensor) -> TokenIndices:
        first, step = self.compared(x_BND.shape[1])
        return self._rows(Nearness(unit_length(x_BND.detach()[:, first::step])), step)

    def nearest_rows(self, near: Nearness) -> Tensor:
        """As `rows`, for tokens that are so near."""
        first, step = self.compared(near.unit_BNE.shape[1])
        return self._rows(near.every(first, step), step)

    def compared(self, tokens: int) -> tuple[int, int]:
        """The first of the tokens that are compared with each other, and the distance to the next."""
        step = stride(tokens - self.num_prefix_tokens, self.tokens - self.num_prefix_tokens)
        # The second of two, then the fourth of four: what remains of dealing the patches by turns.
        return self.num_prefix_tokens + step - 1, step

    def _rows(self, near: Nearness, step: int) -> Tensor:
        kept_BK = least_redundant(near)[:, : self.tokens - self.num_prefix_tokens]
        # In the order of the image, on which the next block's turns depend.
        return behind_prefix(step * kept_BK.sort(dim=1).values + step - 1, num_prefix_tokens=self.num_prefix_tokens)


def stride(patches: int, left: int) -> int:
    """1, or 2, 4 and so on: how many patches there are for one that is compared, at least `left` of them."""
    step = 1
    # Two at least: a single one has no other to be compared with.
    while patches // (2 * step) >= max(left, 2):
        step *= 2
    return step


def nearest_second(near: Nearness) -> Tensor:
    """How near each first patch (B, S) of those dealt by turns is to the nearest second one."""
    return near.every(0, 2).to(near.every(1, 2)).amax(dim=2)


def least_redundant(near: Nearness) -> Tensor:
    """All patches (B, M): the second ones, then the first ones, those nearest to a second one last."""
    nearest_BS = nearest_second(near)
    firsts = nearest_BS.shape[1]
    # Second ones come first, in their order.
    second_BT = torch.full_like(near.unit_BNE[:, 1::2, 0], float("-inf")).to(nearest_BS.dtype)
    dealt_BM = order_by(-torch.cat((nearest_BS, second_BT), dim=1))
    # From the order in which they were dealt to that of the image.
    return torch.where(dealt_BM < firsts, 2 * dealt_BM, 2 * (dealt_BM - firsts) + 1)


class ChooseTokens(nn.Module):
    """The choice alone, for the latency table."""

    def __init__(self, tokens: int, num_prefix_tokens: int) -> None:
        super().__init__()
        self.selector = SpreadTokens(tokens, num_prefix_tokens)

    def forward(self, x_BND: Tensor) -> Tensor:
        rows = self.selector.rows(x_BND)
        assert isinstance(rows, Tensor)
        return rows


def choice_price(shape: ViTShape, block: int, *, enter: int, stay: int) -> Extra:
    """The price of choosing `stay` of the patches that enter `block`: the cosines of the patches that are compared."""
    return Extra(name=CHOICE, place=f"block {block}", matmuls=compared_pairs(enter, stay) * shape.dim, norms=0)


def compared_pairs(enter: int, stay: int) -> int:
    """The pairs of patches that are compared to choose `stay` of `enter`."""
    compared = enter // stride(enter, stay)
    return (compared - compared // 2) * (compared // 2)


@torch.no_grad()
def covering_masks(tokens: list[Tensor], shape: ViTShape, counts: Counts) -> Tensor:
    """Nested masks (L, P) of `counts` patches per block, found from the last block to the first; `tokens` are `measured_tokens`."""
    chosen = chosen_blocks(shape)
    inherited_P = torch.zeros(shape.patches, dtype=torch.bool, device=tokens[0].device)
    masks = []
    for block in reversed(range(chosen)):
        patches_BPD = tokens[block + 1][:, shape.prefix_tokens :]
        order = order_of(torch.ones_like(patches_BPD[..., 0]), patches_BPD, inherited_P, places="cover")
        inherited_P = order.mask(counts[block])
        masks.append(inherited_P)
    # A last block whose count is not chosen computes what enters it.
    return torch.stack([*reversed(masks), *masks[:1] * (shape.depth - chosen)])
