"""`FeatureOutputs`: a model's features as a module whose outputs are plain tensors, which is what exporters take.

Shapes: B images, K tokens that are left, T tokens of the image (prefix included), D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from autoslim.methods.layers.backbone import features


class FeatureOutputs(nn.Module):
    """`model`'s `autoslim.features` for images (B, 3, height, width): the outputs `names`, in this order.

    With `restore_tokens`, `pooled` (B, D) and all the image's `tokens` (B, T, D), prefix first, at the places 0 to T - 1. Without, the
    `tokens` (B, K, D) that are left, and behind them their `places` (B, K).
    """

    def __init__(self, model: nn.Module, *, restore_tokens: bool = True) -> None:
        super().__init__()
        self.model, self.restore_tokens = model, restore_tokens

    @property
    def names(self) -> tuple[str, ...]:
        return ("pooled", "tokens") if self.restore_tokens else ("pooled", "tokens", "places")

    def forward(self, images_B3HW: Tensor) -> tuple[Tensor, ...]:
        found = features(self.model, images_B3HW, restore_tokens=self.restore_tokens)
        return tuple(getattr(found, name) for name in self.names)


def outputs_of(model: nn.Module, classes: tuple[str, ...]) -> tuple[nn.Module, tuple[str, ...]]:
    """What is exported of a slimmed model, and the names of its outputs: the model itself and its logits, or without classes its features,
    restored to the whole grid, as tasks on patches need them.
    """
    if classes:
        return model, ("logits",)
    exported = FeatureOutputs(model)
    return exported, exported.names
