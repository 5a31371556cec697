"""Feature recalibration distillation (FRD, arXiv 2111.12624): the slimmed student's tokens, restored, against the teacher's.

Shapes: B batch, N tokens (prefix included), P patches, K patches of a slimmed block, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from autoslim.methods.layers.token_trunk import Trunk
from autoslim.methods.sit.token_slimming import ReverseTokenSlimming


class RecalibratedTrunk(Trunk):
    """A trunk with reverse modules by block. They take no part in the forward pass, only in `token_loss`."""

    def __init__(
        self,
        blocks: list[nn.Module],
        steps: Mapping[int, nn.Module],
        reverse: Mapping[int, ReverseTokenSlimming],
        num_prefix_tokens: int,
    ) -> None:
        super().__init__(blocks, steps)
        # Beside the stages, not in them: a plain trunk of the same stages is then the pruned form.
        self.reverse = nn.ModuleDict({str(index): module for index, module in reverse.items()})
        self.num_prefix_tokens = num_prefix_tokens

    def token_loss(self, outputs: list[Tensor], teacher_tokens: list[Tensor], *, saving: bool) -> Tensor:
        """The mean over all blocks of MSE(RTSM(X^), teacher's X), over patches only; a block without a reverse module has X^ itself.

        `outputs` and `teacher_tokens` are the tokens (B, N, D) behind each block. `saving` recomputes the reverse modules in the
        backward pass instead of storing their activations: with four times the patches in the middle, these take more memory than the
        blocks.
        """
        # The paper's mean is over all blocks, so that those in front of the first module take part, too.
        losses = []
        for index, (x_BND, teacher_BND) in enumerate(zip(outputs, teacher_tokens, strict=True)):
            inputs = (index, x_BND, teacher_BND)
            losses.append(checkpoint(self._error, *inputs, use_reentrant=False) if saving else self._error(*inputs))
        return torch.stack(losses).mean()

    def _error(self, index: int, x_BND: Tensor, teacher_BND: Tensor) -> Tensor:
        # Slimming modules mix patches alone, so that only patches have to be restored.
        x_BPD = x_BND[:, self.num_prefix_tokens :]
        if str(index) in self.reverse:
            x_BPD = self.reverse[str(index)](x_BPD)
        return functional.mse_loss(x_BPD.float(), teacher_BND[:, self.num_prefix_tokens :].float())


@contextlib.contextmanager
def record_outputs(blocks: list[nn.Module]) -> Iterator[list[Tensor]]:
    """The blocks' outputs (B, N, D) in the passes made inside the context, in order."""
    outputs: list[Tensor] = []

    def note(block: nn.Module, inputs: Any, output: Tensor) -> None:
        outputs.append(output)

    hooks = [block.register_forward_hook(note) for block in blocks]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
