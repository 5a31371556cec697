"""Feature recalibration distillation (FRD, arXiv 2111.12624): the slimmed student's tokens, restored, against the teacher's.

Shapes: B batch, N tokens (prefix included), P patches, K patches of a slimmed block, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from autoslim.core.recipe import Knobs
from autoslim.methods.layers.token_trunk import Trunk, blocks_of
from autoslim.methods.losses import channel_variance, soft_label_loss
from autoslim.methods.sit.token_slimming import ReverseTokenSlimming
from autoslim.methods.trainer import DistillationBatch, Tensors

_LEAST_VARIANCE = 1e-6
"""Keeps the normalised error finite where all patches are equal."""


class ReverseModules(nn.ModuleDict):
    """The reverse modules by block, and how their error is measured: what training needs beside a slimmed model.

    `normalised` divides the error of a block by the variance of the teacher's patches there.
    """

    def __init__(self, modules: Mapping[int, ReverseTokenSlimming], *, num_prefix_tokens: int, normalised: bool) -> None:
        super().__init__({str(index): module for index, module in modules.items()})
        self.num_prefix_tokens, self.normalised = num_prefix_tokens, normalised

    def token_loss(
        self,
        outputs: Sequence[Tensor],
        teacher_tokens: Sequence[Tensor],
        *,
        saving: bool,
        variance: Callable[[Tensor], Tensor] = channel_variance,
    ) -> Tensor:
        """The mean over the blocks of MSE(RTSM(X^), teacher's X), over patches only; a block without a reverse module has X^ itself.

        `outputs` (`record_outputs`) and `teacher_tokens` are the tokens (B, N, D) behind each block. `saving` recomputes the reverse
        modules in the backward pass instead of storing their activations: with four times the patches in the middle, these take more memory
        than the blocks. `variance` is that of the whole batch, as `DistillationBatch.variance`.
        """
        # The paper's mean is over all blocks, so that those in front of the first module take part, too.
        losses = []
        for index, (x_BND, teacher_BND) in enumerate(zip(outputs, teacher_tokens, strict=True)):
            # A last block that computes the prefix tokens alone has no patches that could be restored.
            if x_BND.shape[1] > self.num_prefix_tokens:
                inputs = (index, x_BND, teacher_BND)
                error = checkpoint(self._error, *inputs, use_reentrant=False) if saving else self._error(*inputs)
                losses.append(error / self._scale(teacher_BND, variance) if self.normalised else error)
        return torch.stack(losses).mean()

    def _scale(self, teacher_BND: Tensor, variance: Callable[[Tensor], Tensor]) -> Tensor:
        """The variance of each channel over all patches, averaged over the channels: the mean patch alone would have an error of 1."""
        target_BPD = teacher_BND[:, self.num_prefix_tokens :].float()
        return variance(target_BPD.flatten(0, 1)).mean() + _LEAST_VARIANCE

    def _error(self, index: int, x_BND: Tensor, teacher_BND: Tensor) -> Tensor:
        # Slimming modules mix patches alone, so that only patches have to be restored.
        x_BPD = x_BND[:, self.num_prefix_tokens :]
        if str(index) in self:
            x_BPD = self[str(index)](x_BPD)
        target_BPD = teacher_BND[:, self.num_prefix_tokens :].float()
        return functional.mse_loss(x_BPD.float(), target_BPD)


class RecalibratedTrunk(Trunk):
    """A trunk with reverse modules beside it. They take no part in the forward pass."""

    def __init__(self, blocks: list[nn.Module], steps: Mapping[int, nn.Module], reverse: ReverseModules) -> None:
        super().__init__(blocks, steps)
        # Beside the stages, not in them: a plain trunk of the same stages is then the pruned form.
        self.reverse = reverse


def recalibration_losses(reverse: ReverseModules, knobs: Knobs, batch: DistillationBatch) -> Tensors:
    """FRD's `loss`, and the terms that it sums up: `labels`, and times their knobs' weights `logits` and `tokens`."""
    # Teacher tokens first: the pass that gives them gives the teacher's logits, too.
    teacher_tokens = batch.teacher_tokens if knobs["token_weight"] else []
    # The student runs when its logits are first read, which has to be while its outputs are recorded.
    with record_outputs(blocks_of(batch.student)) as outputs:
        logits_BC = batch.logits_BC
    # Without classes the loss of the features takes the place of the labels' and of the teacher's logits.
    losses = {"labels": batch.label_loss}
    loss = batch.label_loss
    # A term of weight 0 is left out, so that what only it would read of the teacher is never computed.
    if knobs["logit_weight"] and batch.has_classes:
        losses["logits"] = soft_label_loss(logits_BC, batch.teacher_logits_BC, temperature=knobs["temperature"])
        loss = loss + knobs["logit_weight"] * losses["logits"]
    if knobs["token_weight"]:
        saving = bool(getattr(batch.student, "grad_checkpointing", False))
        losses["tokens"] = reverse.token_loss(outputs, teacher_tokens, saving=saving, variance=batch.variance)
        loss = loss + knobs["token_weight"] * losses["tokens"]
    return {"loss": loss, **losses}


@contextlib.contextmanager
def record_outputs(blocks: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """The tokens (B, N, D) behind each block in the passes made inside the context, in order.

    Behind a block there may be a module that slims its output. What it leaves is recorded, as in the released code: what the next
    block reads.
    """
    outputs: list[Tensor] = []

    def note_input(block: nn.Module, inputs: Any) -> None:
        outputs.append(inputs[0])

    def note_output(block: nn.Module, inputs: Any, output: Tensor) -> None:
        outputs.append(output)

    hooks = [block.register_forward_pre_hook(note_input) for block in blocks[1:]]
    hooks.append(blocks[-1].register_forward_hook(note_output))
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
