"""`BestState`: the state of a model in fine-tuning with the best validation score, which is the one that is kept."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from autoslim.methods.trainer import Tensors

COMPANION = "companion"
"""The submodule that is trained along with the model and is no part of it (`SlimmedModel.companion`)."""

_PREFIX = "best."
"""Of its tensors' names in a checkpoint."""


class BestState:
    """The best state observed so far, with its `score` and the `epoch` of the report that has it: fine-tuning that makes a model worse
    is undone. Tensors are copied into the CPU's memory.

    The structure is the same in all states, and with it the FLOPs. Where tokens vary from image to image, scores are comparable only
    where each is measured at thresholds that keep to the budget (`Measurer.accuracy_within_budget`).
    """

    def __init__(self) -> None:
        self.score, self.epoch = -math.inf, 0.0
        self._tensors: Tensors = {}

    def observe(self, model: nn.Module, *, score: float, epoch: float) -> None:
        """Takes the model's state, without its companion, where `score` is at least the best one so far."""
        # Of equals the later one: it is trained for longer, and validation images are often too few to show what that is worth.
        if score < self.score:
            return
        self.score, self.epoch = score, epoch
        self._tensors = {
            name: value.detach().to("cpu", copy=True)
            for name, value in model.state_dict().items()
            if not name.startswith(f"{COMPANION}.")
        }

    def restore(self, model: nn.Module) -> None:
        """Gives the best state back to `model`, which has no companion any more, in place."""
        model.load_state_dict(self._tensors, strict=True)

    @property
    def tensors(self) -> Tensors:
        """What a checkpoint has of it beside the metadata; nothing before the first state."""
        return {f"{_PREFIX}{name}": value for name, value in self._tensors.items()}

    @property
    def metadata(self) -> dict[str, Any]:
        return {"best": {"score": self.score, "epoch": self.epoch}} if self._tensors else {}

    def resume(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Continues from a checkpoint; one of an earlier version has no best state, and the first state observed from here on is one."""
        if "best" not in metadata:
            return
        self.score, self.epoch = metadata["best"]["score"], metadata["best"]["epoch"]
        self._tensors = {name.removeprefix(_PREFIX): value for name, value in tensors.items() if name.startswith(_PREFIX)}
