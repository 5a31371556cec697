"""The distillation loss on logits, for methods' own training phases and for fine-tuning alike, and the scale of losses on features."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def soft_label_loss(logits_BC: Tensor, teacher_logits_BC: Tensor, *, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) at temperature T, the mean over the batch (Hinton et al., arXiv 1503.02531, section 2).

    The factor T^2 keeps the gradient's size independent of T.
    """
    divergence = functional.kl_div(
        functional.log_softmax(logits_BC / temperature, dim=1),
        functional.log_softmax(teacher_logits_BC / temperature, dim=1),
        log_target=True,
        reduction="batchmean",
    )
    return temperature**2 * divergence


def channel_variance(x_NC: Tensor) -> Tensor:
    """The variance of each channel over the rows, (C,)."""
    return x_NC.var(dim=0, correction=0)
