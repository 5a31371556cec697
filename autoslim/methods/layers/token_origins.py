"""What the tokens behind each block are made of, and the image's whole grid of tokens restored from them.

Every module that changes the set of tokens says how in `token_map(tokens)`, (B, K, N): which incoming token each outgoing one is made of.
Composed from the first block on, these maps say it for every method alike. They are computed beside the tokens, without hooks, so that
a graph that is exported has them, too.

Shapes: B images, T tokens of the image (prefix included), N tokens that enter, K tokens that leave, P patches, D width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.errors import UnsupportedModelError
from autoslim.methods.layers.token_selector import TokenSelector
from autoslim.methods.layers.token_trunk import Stage, Trunk
from autoslim.models.placed_tokens import PlacedTokens, TokenIndices, gather_tokens, placed


@dataclasses.dataclass(frozen=True)
class BlockTokens:
    """The tokens behind one block, in the form in which the trunk hands them on.

    `entered_BNT` says which of the image's tokens the block's keys and values are made of, `origin_BKT` which the tokens behind it are;
    None: each is the image's own, in their order. Rows sum to 1, except that those of padding are zero.
    """

    tokens: Any
    entered_BNT: Tensor | None
    origin_BKT: Tensor | None

    @property
    def x_BKD(self) -> Tensor:
        """The tokens themselves."""
        x_BKD: Tensor = self.tokens if isinstance(self.tokens, Tensor) else self.tokens.x_BND
        return x_BKD

    def places_BK(self) -> Tensor:
        """Which of the image's tokens each token is, counted with the prefix; -1 for padding.

        A merged token is where the one is that the others have joined; a token that is made of many, where its largest share is from.
        """
        batch, tokens, _ = self.x_BKD.shape
        if self.origin_BKT is None:
            return torch.arange(tokens, device=self.x_BKD.device).expand(batch, -1)
        carried: TokenIndices | None = None if isinstance(self.tokens, Tensor) else self.tokens.places
        place_BK = self.origin_BKT.argmax(dim=2)
        if isinstance(carried, Tensor):
            # A last block that computes the prefix tokens alone leaves the first of the places that were carried to it.
            place_BK = carried[..., :tokens].expand(batch, -1)
        return place_BK.masked_fill(self.origin_BKT.sum(dim=2) == 0, -1)


def tokens_behind_blocks(model: nn.Module, x_BTD: Tensor) -> Iterator[BlockTokens]:
    """The tokens behind each block of a dense or slimmed model, from those that enter the first.

    Raises:
        UnsupportedModelError: when a module changes the number of tokens and has no `token_map`, or a method is training the model.
    """
    trunk: Any = model.blocks
    if not isinstance(trunk, Trunk):
        if not isinstance(trunk, nn.Sequential | nn.ModuleList):
            raise UnsupportedModelError(f"a {type(trunk).__name__} is a form for training alone; prune the model first")
        for block in trunk:
            x_BTD = block(x_BTD)
            yield BlockTokens(x_BTD, None, None)
        return
    tokens: Any = x_BTD
    for part in _parts(trunk)[0]:
        tokens = part(tokens)
    origin_BNT: Tensor | None = None
    for stage in trunk.stages:
        assert isinstance(stage, Stage)
        entered, entered_BNT = _followed(stage.pre_block, stage.enter, tokens, origin_BNT)
        tokens, origin_BNT = _followed(stage.block, stage.compute, entered, entered_BNT)
        yield BlockTokens(tokens, entered_BNT, origin_BNT)


def head_input(model: nn.Module, last: BlockTokens) -> Tensor:
    """What the model's head reads, (B, K, D), from the tokens behind the last block."""
    trunk: Any = model.blocks
    tokens = last.tokens
    if isinstance(trunk, Trunk):
        for part in _parts(trunk)[1]:
            tokens = part(tokens)
    out: Tensor = model.norm(tokens)  # type: ignore[operator]
    return out


def final_norm(model: nn.Module) -> nn.Module:
    """The norm of the model's tokens behind the last block."""
    vit: Any = model
    norm: nn.Module = vit.blocks.final_norm(vit) if isinstance(vit.blocks, Trunk) else vit.norm
    return norm


def restore_tokens(x_BKD: Tensor, origin_BKT: Tensor | None, *, grid: tuple[int, int], num_prefix_tokens: int) -> Tensor:
    """All the image's tokens (B, T, D), prefix first, from those that are left.

    A token that is a part of others is filled from these, in proportion to what each has of it: from itself, from the one that it has
    joined, or from SiT's made tokens. One that is a part of none is filled from what fills the nearest patch on the grid.

    Raises:
        UnsupportedModelError: when no patch is left.
    """
    if origin_BKT is None:
        return x_BKD
    if x_BKD.shape[1] <= num_prefix_tokens:
        raise UnsupportedModelError(
            "the block computes the prefix tokens alone (class query), so that there is no patch to restore the others from; "
            "read an earlier block, or slim the model without it"
        )
    # What is left of each of the image's tokens, by the tokens that have a part of it: nothing of a dropped one.
    share_BTK = origin_BKT.transpose(1, 2)
    whole_BT = share_BTK.sum(dim=2)
    source_BT = _nearest_left(whole_BT[:, num_prefix_tokens:] > 0, grid=grid, num_prefix_tokens=num_prefix_tokens)
    weight_BTK = share_BTK / whole_BT.unsqueeze(-1).clamp(min=torch.finfo(share_BTK.dtype).tiny)
    return gather_tokens(weight_BTK, source_BT).to(x_BKD.dtype) @ x_BKD


def _nearest_left(left_BP: Tensor, *, grid: tuple[int, int], num_prefix_tokens: int) -> Tensor:
    """For each of the image's tokens the one that fills it: itself where it is left, else the nearest patch that is: (B, T)."""
    rows, columns = (torch.arange(size, device=left_BP.device, dtype=torch.float32) for size in grid)
    place_P2 = torch.cartesian_prod(rows, columns)
    # Squared distances in whole numbers, so that ties are exact and go to the first patch in reading order on every device.
    distance_PP = (place_P2[:, None, :] - place_P2[None, :, :]).square().sum(dim=-1)
    nearest_BP = torch.where(left_BP[:, None, :], distance_PP, torch.inf).argmin(dim=2)
    # Not `len`, which would fix the batch of a graph that is exported.
    prefix = torch.arange(num_prefix_tokens, device=left_BP.device).expand(left_BP.shape[0], -1)
    return torch.cat((prefix, nearest_BP + num_prefix_tokens), dim=1)


def _followed(module: nn.Module | None, run: Any, tokens: Any, origin_BNT: Tensor | None) -> tuple[Any, Tensor | None]:
    """What `module` makes of tokens, and what that is made of."""
    if module is None:
        return tokens, origin_BNT
    if isinstance(module, TokenSelector):
        # Selected once: a selector may draw at random.
        rows = module.rows(placed(tokens).x_BND)
        out = gather_tokens(tokens, rows) if isinstance(tokens, Tensor) else tokens.at(rows)
        return out, _selected(origin_BNT, tokens, rows)
    out = run(tokens)
    if hasattr(module, "token_map"):
        step_BKN: Tensor = module.token_map(tokens)  # type: ignore[operator]
        return out, step_BKN if origin_BNT is None else step_BKN @ origin_BNT
    before, after = (_count(given) for given in (tokens, out))
    if before != after:
        raise UnsupportedModelError(
            f"{type(module).__name__} makes {after} tokens of {before} and has no token_map that says which they are"
        )
    return out, origin_BNT


def _selected(origin_BNT: Tensor | None, tokens: Tensor | PlacedTokens, rows: TokenIndices) -> Tensor:
    x_BND = placed(tokens).x_BND
    if origin_BNT is None:
        batch, entering, _ = x_BND.shape
        origin_BNT = torch.eye(entering, dtype=x_BND.dtype, device=x_BND.device).expand(batch, -1, -1)
    return gather_tokens(origin_BNT, rows)


def _count(tokens: Any) -> int:
    """The number of tokens, in whichever form they are."""
    return int((tokens if isinstance(tokens, Tensor) else tokens.x_BND).shape[1])


def _parts(trunk: Trunk) -> tuple[list[Any], list[Any]]:
    """What a trunk runs in front of its stages and behind them."""
    parts = list(trunk)
    first = next(number for number, part in enumerate(parts) if isinstance(part, Stage))
    return parts[:first], parts[first + len(trunk) :]
