"""Which patches take part in which block of a slimmed model, seen on real images.

Every module that changes the set of tokens says how in `token_map(x) -> (B, K, N)`: which incoming token each outgoing one is made
of. Composed from the first block on, these maps tell for every method alike what is left of each patch of the image.

Shapes: B images, N tokens (prefix included), K tokens behind a step, P patches, L blocks.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.core.shape import ViTShape
from autoslim.errors import UnsupportedModelError
from autoslim.methods.base import logits_of
from autoslim.methods.layers.adaptive_trunk import CountedTokens
from autoslim.methods.layers.merging import SizedTokens
from autoslim.methods.layers.token_trunk import blocks_of

_WHOLE = 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Survival:
    """`weights` (L + 1, B, P): how much of each patch the keys and values of block l are made of; the last, what reaches the head.

    It is a column sum of the composed map: 1 for a patch that is there, 0 for one that was dropped, anything else where tokens are
    mixed. `logits` (B, classes) are the model's own.
    """

    weights: Tensor
    logits: Tensor

    @property
    def mixed(self) -> bool:
        """Whether some patch is neither there nor gone."""
        return bool(((self.weights - self.weights.round()).abs() > _WHOLE).any() or (self.weights > 1 + _WHOLE).any())

    @property
    def lives(self) -> Tensor:
        """In how many blocks each patch takes part (B, P); a patch that is a part of its token counts in part."""
        return self.weights[:-1].clamp(max=1).sum(dim=0)

    @property
    def counts(self) -> Tensor:
        """How many patches take part in each block (L + 1, B); where tokens are mixed, how many tokens they make."""
        return self.weights.sum(dim=2).round().long()


@torch.no_grad()
def follow(model: nn.Module, images_B3hw: Tensor, shape: ViTShape) -> Survival:
    """Runs `model` and follows the patches through it.

    Raises:
        UnsupportedModelError: when a module changes the number of tokens and has no `token_map`, or tokens are computed in windows.
    """
    if shape.windowed:
        raise UnsupportedModelError("this model computes its attention in windows, so that all patches take part in every block")
    follower = _Follower()
    with follower.watching(model):
        logits_BC = logits_of(model.eval()(images_B3hw))
    weights = torch.stack([map_BKN.sum(dim=1)[:, shape.prefix_tokens :] for map_BKN in follower.maps])
    return Survival(weights=weights, logits=logits_BC.float())


class _Follower:
    """Hooks on the blocks note the composed map, hooks on whatever has a `token_map` carry it on."""

    def __init__(self) -> None:
        self.maps: list[Tensor] = []
        self._now: Tensor | None = None
        self._inside = 0

    @contextlib.contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        blocks = blocks_of(model)
        handles = [block.register_forward_pre_hook(self._note) for block in blocks]
        for module in model.modules():
            if hasattr(module, "token_map"):
                # Behind the hook above: a block that drops tokens inside still has all of them as keys and values.
                handles += [module.register_forward_pre_hook(self._enter), module.register_forward_hook(self._leave)]
        handles.append(blocks[-1].register_forward_hook(self._end))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.maps.append(self._map_of(inputs[0], module))

    def _enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Only the outermost speaks for what is inside it."""
        if self._inside == 0:
            before_BKN = self._map_of(inputs[0], module)
            step_BMK: Tensor = module.token_map(inputs[0])  # type: ignore[operator]
            self._now = step_BMK.float() @ before_BKN
        self._inside += 1

    def _leave(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._inside -= 1

    def _end(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.maps.append(self._map_of(output, module))

    def _map_of(self, x: Tensor | CountedTokens | SizedTokens, module: nn.Module) -> Tensor:
        batch, tokens, _ = (x if isinstance(x, Tensor) else x.x_BND).shape
        if self._now is None:
            self._now = torch.eye(tokens).expand(batch, -1, -1)
        if self._now.shape[1] != tokens:
            raise UnsupportedModelError(
                f"{type(module).__name__} meets {tokens} tokens where {self._now.shape[1]} were expected: "
                "a module before it changes them and has no token_map"
            )
        return self._now
