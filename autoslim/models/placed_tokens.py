"""Tokens that know where in the image they are, and the indices by which some of them are selected.

Shapes: B batch, N tokens (prefix included), K tokens that stay, D width.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

TokenIndices = int | Tensor
"""A number of tokens from the front; or indices (K,), the same for every image; or indices (B, K)."""


class PlacedTokens(NamedTuple):
    """Tokens (B, N, D) and which of the image's tokens each of them is, counted with the prefix; None: all of them, in their order."""

    x_BND: Tensor
    places: TokenIndices | None

    def at(self, rows: TokenIndices) -> PlacedTokens:
        """The tokens `rows`, in that order."""
        return PlacedTokens(gather_tokens(self.x_BND, rows), places_at(self.places, rows))


Tokens = TypeVar("Tokens", Tensor, PlacedTokens)
"""What a block takes and gives: with places or without, both alike."""


def placed(tokens: Tensor | PlacedTokens) -> PlacedTokens:
    """The tokens with their places; a tensor alone has all the image's tokens."""
    return PlacedTokens(tokens, None) if isinstance(tokens, Tensor) else tokens


def as_given(result: PlacedTokens, given: Tokens) -> Tokens:
    """The result with its places, or without where `given` had none."""
    return result.x_BND if isinstance(given, Tensor) else result


def gather_tokens(x_BND: Tensor, rows: TokenIndices) -> Tensor:
    """The tokens `rows` of each image, in that order: (B, K, D)."""
    if isinstance(rows, int):
        return x_BND[:, :rows]
    if rows.ndim == 1:
        return x_BND.index_select(1, rows)
    # Copies whole tokens. `gather` needs an index per element and takes about ten times as long, under ONNX Runtime longer still.
    batch, tokens, width = x_BND.shape
    first_B1 = tokens * torch.arange(batch, device=rows.device).unsqueeze(1)
    return x_BND.reshape(-1, width).index_select(0, (rows + first_B1).flatten()).view(batch, rows.shape[1], width)


def places_at(places: TokenIndices | None, rows: TokenIndices) -> TokenIndices:
    """Where the tokens `rows` of those at `places` are."""
    # All tokens in their order, or the first of them: an index among them is a place.
    if places is None or isinstance(places, int):
        return rows
    if isinstance(rows, int):
        return places[..., :rows]
    if rows.ndim == 1:
        return places.index_select(-1, rows)
    if places.ndim == 1:
        return places.index_select(0, rows.flatten()).view_as(rows)
    return places.gather(1, rows)
