"""One batch as a method's loss sees it; the passes of student and teacher are computed on first use."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.core.recipe import TrainingSettings
from autoslim.methods.base import logits_of
from autoslim.methods.losses import channel_variance, soft_label_loss
from autoslim.training.feature_loss import feature_loss
from autoslim.training.losses import label_loss, weigh
from autoslim.training.rank_group import RankGroup


class LazyDistillationBatch:
    """`methods.DistillationBatch` for images (B, 3, h, w) and their labels, (B,) or soft (B, C).

    `teacher_logits` computes the teacher's logits where a cache makes that cheaper than a pass of `teacher`, or another model gives them:
    then `gives_logits` is False, and only the tokens are those of `teacher`.

    Without a classifier the features are what there is to learn: `feature_loss` takes the place of every loss, and labels are not read.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        images_B3HW: Tensor,
        labels: Tensor,
        training: TrainingSettings,
        *,
        progress: float = 0.0,
        teacher_logits: Callable[[Tensor], Tensor] | None = None,
        gives_logits: bool = True,
        group: RankGroup | None = None,
    ) -> None:
        assert gives_logits or teacher_logits is not None, "logits of no model"
        self.student, self.teacher, self.images_B3HW, self.labels, self.training = (
            student,
            teacher,
            images_B3HW,
            labels,
            training,
        )
        self.progress, self._group = progress, group
        self._compute_teacher_logits, self._gives_logits = teacher_logits, gives_logits
        # Set by whichever comes first, the logits alone or the tokens: one pass gives both.
        self._teacher_logits_BC: Tensor | None = None

    @functools.cached_property
    def logits_BC(self) -> Tensor:
        return logits_of(self.student(self.images_B3HW)).float()

    @functools.cached_property
    def teacher_logits_BC(self) -> Tensor:
        if self._teacher_logits_BC is None and self._compute_teacher_logits is not None:
            self._teacher_logits_BC = self._compute_teacher_logits(self.images_B3HW)
        elif self._teacher_logits_BC is None:
            with torch.no_grad():
                self._teacher_logits_BC = logits_of(self.teacher(self.images_B3HW)).float()
        return self._teacher_logits_BC

    @functools.cached_property
    def teacher_tokens(self) -> list[Tensor]:
        """Tokens (B, N, D) behind each of the teacher's blocks."""
        tokens: list[Tensor] = []

        def collect(block: nn.Module, inputs: Any, output: Tensor) -> None:
            tokens.append(output)

        blocks: Any = self.teacher.blocks
        hooks = [block.register_forward_hook(collect) for block in blocks]
        try:
            with torch.no_grad():
                logits_BC = logits_of(self.teacher(self.images_B3HW)).float()
            if self._gives_logits:
                self._teacher_logits_BC = logits_BC
        finally:
            for hook in hooks:
                hook.remove()
        return tokens

    @functools.cached_property
    def has_classes(self) -> bool:
        return bool(self.teacher.num_classes)

    @functools.cached_property
    def label_loss(self) -> Tensor:
        if not self.has_classes:
            return feature_loss(self.student, self.teacher, self.images_B3HW, variance=self.variance)
        return label_loss(self.logits_BC, self.labels, self.training)

    @functools.cached_property
    def task_loss(self) -> Tensor:
        """As `losses.task_loss`."""
        return self._taught(self.logits_BC, self.label_loss) if self.has_classes else self.label_loss

    def task_loss_of(self, logits_BC: Tensor) -> Tensor:
        return self._taught(logits_BC, label_loss(logits_BC, self.labels, self.training))

    def _taught(self, logits_BC: Tensor, of_labels: Tensor) -> Tensor:
        if self.training.distillation == 0:
            return of_labels
        soft = soft_label_loss(logits_BC, self.teacher_logits_BC, temperature=self.training.temperature)
        return weigh(of_labels, soft, self.training)

    def mean(self, own: Tensor) -> Tensor:
        return own if self._group is None else self._group.mean(own, len(self.images_B3HW))

    def variance(self, x_NC: Tensor) -> Tensor:
        return channel_variance(x_NC) if self._group is None else self._group.variance(x_NC)
