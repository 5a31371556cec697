"""The trunks of a slimmed student: in training with the reverse modules beside it, pruned without; and both with sizes, or none.

With the knob `sizes` at `patches`, tokens carry their sizes from end to end, as in `layers.merging`: as a key a made token counts as often
as the patches that go into it, and a head that averages patches weights it so, too.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from autoslim.core.recipe import Knobs
from autoslim.core.shape import ViTShape
from autoslim.methods.layers.backbone import install
from autoslim.methods.layers.merging import MergingTrunk, WeightedMean, check_pooling, weighted_end
from autoslim.methods.layers.sublayer import check_parts
from autoslim.methods.layers.token_trunk import Trunk, blocks_of, pre_blocks_of
from autoslim.methods.sit.recalibration import RecalibratedTrunk, ReverseModules


class SizedRecalibratedTrunk(MergingTrunk):
    """A `RecalibratedTrunk` of tokens that carry their sizes."""

    def __init__(
        self, blocks: list[nn.Module], steps: Mapping[int, nn.Module], end: WeightedMean | None, reverse: ReverseModules
    ) -> None:
        super().__init__(blocks, steps, end)
        self.reverse = reverse


def is_sized(knobs: Knobs) -> bool:
    """Whether tokens carry their sizes; recipes that are older than the knob say nothing, and theirs do not."""
    return bool(knobs.get("sizes") == "patches")


def check_sizes(shape: ViTShape) -> None:
    """Raises UnsupportedModelError where attention takes no mask, or the head's pooling cannot weight tokens by their sizes."""
    check_parts("SiT with sizes 'patches'", shape)
    check_pooling("SiT with sizes 'patches'", shape)


def install_slimmed(model: nn.Module, shape: ViTShape, knobs: Knobs, steps: Mapping[int, nn.Module]) -> nn.Module:
    """The pruned form: the model's blocks, with `steps` in front of them."""
    blocks = blocks_of(model)
    return install(model, MergingTrunk(blocks, steps, weighted_end(model, shape)) if is_sized(knobs) else Trunk(blocks, steps))


def install_recalibrated(model: nn.Module, shape: ViTShape, knobs: Knobs, reverse: ReverseModules) -> nn.Module:
    """The training form of a model in its pruned form."""
    blocks, steps = blocks_of(model), pre_blocks_of(model)
    if not is_sized(knobs):
        return install(model, RecalibratedTrunk(blocks, steps, reverse))
    return install(model, SizedRecalibratedTrunk(blocks, steps, weighted_end(model, shape), reverse))
