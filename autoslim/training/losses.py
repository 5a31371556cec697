"""The task's loss: labels, smoothed, and the dense teacher's soft labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoslim.core.recipe import TrainingSettings
from autoslim.methods.base import logits_of
from autoslim.methods.losses import soft_label_loss


def task_loss(
    student: nn.Module, teacher: nn.Module | None, images_B3HW: Tensor, labels: Tensor, training: TrainingSettings
) -> Tensor:
    """(1 - d) cross entropy + d T^2 KL(teacher || student) at temperature T, d = `training.distillation` (Hinton et al., 2015).

    `labels` are class indices (B,) or soft labels (B, C). The teacher sees the same augmented images as the student.
    """
    logits_BC = logits_of(student(images_B3HW)).float()
    loss = label_loss(logits_BC, labels, training)
    if teacher is None or training.distillation == 0:
        return loss
    with torch.no_grad():
        teacher_logits_BC = logits_of(teacher(images_B3HW)).float()
    return weigh(loss, soft_label_loss(logits_BC, teacher_logits_BC, temperature=training.temperature), training)


def weigh(labels: Tensor, soft_labels: Tensor, training: TrainingSettings) -> Tensor:
    return (1 - training.distillation) * labels + training.distillation * soft_labels


def label_loss(logits_BC: Tensor, labels: Tensor, training: TrainingSettings) -> Tensor:
    """Cross entropy. Labels (B,) are smoothed here; soft labels (B, C) come from mixup or CutMix, where they have been smoothed."""
    return functional.cross_entropy(logits_BC, labels, label_smoothing=training.label_smoothing if labels.ndim == 1 else 0.0)
