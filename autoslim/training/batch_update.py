"""`BatchUpdate`: the step of the optimizer that follows from one batch, computed in parts and on several ranks.

B images of a rank's batch, b of a part of it, h and w pixels.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.core import activity
from autoslim.core.recipe import TrainingSettings
from autoslim.errors import InfeasibleError
from autoslim.training.batch_parts import BatchPart, split_batch
from autoslim.training.device import Precision, autocast
from autoslim.training.rank_group import RankGroup
from autoslim.training.whole_batch import WholeBatch, not_compiled, whole_batch

Objective = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""Images (B, 3, h, w) and their labels, as of a loader or mixed, to scalars by name; `loss` is minimised, the others become curves."""


class BatchUpdate:
    """Updates `student` with `optimizer`, so that the losses of `objective` fall.

    A batch is computed in `pieces`, whose gradients are summed; there are more of them when the memory is too small. While `objective`
    runs, `part` is the part that it is given. `frozen_models` are those that it runs beside the student: they compute in the same
    precision. `batch_images` is the size of a whole batch, of which a rank of a `group` has its share.
    """

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        training: TrainingSettings,
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        precision: Precision,
        batch_images: int,
        frozen_models: tuple[nn.Module, ...] = (),
        group: RankGroup | None = None,
    ) -> None:
        self.objective = objective
        self._student, self._training, self._optimizer, self._frozen_models = student, training, optimizer, frozen_models
        self._device, self._precision, self._group, self._batch_images = device, precision, group, batch_images
        self.pieces = self._asked_pieces = min(training.grad_accum_steps, _smallest_share(group, batch_images))
        self.part: BatchPart | None = None
        self._whole_batches = None if group is None else self._contexts(group)
        # Gradients of float16 would vanish: the loss is scaled up as far as none overflows.
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision is Precision.FLOAT16)

    def __call__(self, images_B3HW: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Returns the mean losses by name.

        Raises:
            InfeasibleError: when not even half a part of the batch fits into the memory, or, on several ranks, not a rank's part.
        """
        try:
            return self._accumulate(images_B3HW, labels)
        except torch.OutOfMemoryError as error:
            # In the middle of a step the other ranks could not go back and halve theirs.
            if self.pieces > self._asked_pieces or len(images_B3HW) < 2 * self.pieces or self._group is not None:
                size = math.ceil(len(images_B3HW) / self.pieces)
                raise InfeasibleError(
                    f"{size} images at once do not fit into the memory of {self._device}: {error}; --grad-accum-steps "
                    f"{2 * self.pieces} and --grad-checkpointing need less"
                ) from error
        # In halves, and no further: then the recipe counts as infeasible. Kept for the rest of the phase: the next batch is as large.
        # Outside the handler, whose traceback keeps the failed step's tensors alive.
        self.pieces *= 2
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return self(images_B3HW, labels)

    def images_of(self, own_B3HW: Tensor) -> int:
        """Images of the batch, of which this rank has `own_B3HW`."""
        return len(own_B3HW) if self._group is None else self._batch_images

    def trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self._student.parameters() if parameter.requires_grad]

    def _accumulate(self, images_B3HW: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self._optimizer.zero_grad(set_to_none=True)
        curves: dict[str, Tensor] = {}
        for number, part in enumerate(split_batch(images_B3HW, self.pieces)):
            activity.mark()
            self.part, images = part, part.images_b3HW
            # The sum of the parts' gradients, and of the ranks', is then that of the whole batch's mean loss.
            share = len(images) / self.images_of(images_B3HW)
            with contextlib.nullcontext() if self._whole_batches is None else self._whole_batches[number]:
                with autocast(self._student, *self._frozen_models, device=self._device, precision=self._precision):
                    losses = self.objective(images, labels[part.rows])
                self.scaler.scale(losses["loss"] * share).backward()  # type: ignore[no-untyped-call]
            for name, value in losses.items():
                curves[name] = curves.get(name, torch.zeros((), device=self._device)) + value.detach() * share
        if self._group is not None:
            # Once a step, whatever its parts.
            curves = self._group.sum_gradients(self.trained(), curves)
        if self._training.clip_norm > 0:
            self.scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.trained(), self._training.clip_norm)
        # Both are the optimizer's own step where no loss is scaled. Where a gradient has overflowed on any rank, it has on all of them:
        # all leave the step out and halve the scale.
        self.scaler.step(self._optimizer)
        self.scaler.update()
        return curves

    def _contexts(self, group: RankGroup) -> list[contextlib.AbstractContextManager[Any]]:
        """Of a rank's passes, by the part of the batch."""
        contexts = [
            whole_batch(self._student, group, self._batch_images, part=part, parts=self.pieces) for part in range(self.pieces)
        ]
        if self._training.compile and any(isinstance(context, WholeBatch) for context in contexts):
            raise not_compiled("the model has dropout, stochastic depth, batch norms or noise", gpus=group.share.ranks)
        return contexts


def _smallest_share(group: RankGroup | None, images: int) -> int:
    """Images that every rank has of a batch of `images`."""
    return images if group is None else min(map(len, group.share.rows_by_rank(images)))
