"""AdamW with the learning rate and weight decay that each parameter takes."""

from __future__ import annotations

import torch
from torch import nn

from autoslim.core.recipe import TrainingSettings
from autoslim.training.phase_schedule import PhaseSchedule


def make_optimizer(student: nn.Module, training: TrainingSettings, schedule: PhaseSchedule) -> torch.optim.AdamW:
    """AdamW over the parameters that require a gradient.

    As in timm, biases, norms, position embeddings, positions of attention and tokens have no weight decay. Nor have ViT-Slim's masks,
    which decay would pull to zero.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            factor = next((rate for suffix, rate in schedule.learning_rates.items() if name.endswith(suffix)), None)
            plain = parameter.ndim < 2 or name.endswith(("pos_embed", "_token", "zeta")) or ".positions." in name
            groups.setdefault((1.0 if factor is None else factor, 0.0 if plain else training.weight_decay), []).append(parameter)
    peak = training.lr * schedule.rate
    return torch.optim.AdamW(
        [{"params": parameters, "lr": peak * rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()],
        fused=True,
    )
