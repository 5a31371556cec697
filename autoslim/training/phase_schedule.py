"""`PhaseSchedule`: the steps of one phase of training, and the learning rate of each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from autoslim.core.result import Phase


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhaseSchedule:
    """One phase of training and its learning-rate schedule.

    Args:
        phase: For reports.
        seed_name: Enters every random seed: with another one, a run that resumes from a checkpoint sees other augmentations.
        steps: Optimizer steps of the phase.
        first_epoch: Number of the loader's epoch that the phase starts with, so that two phases see different augmentations.
        rate: Factor on the training's peak learning rate.
        learning_rates: Further factors of single parameters, by the suffix of their name.
        constant_rate: Whether the learning rate stays at its peak, without warm-up and decay.
        lr_decay: How the learning rate falls behind its peak otherwise: along half a `cosine`, or `linear`.
        average: Whether a moving average of the weights is kept, if the training has one.
    """

    phase: Phase
    seed_name: str
    steps: int
    first_epoch: int = 0
    rate: float = 1.0
    learning_rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    constant_rate: bool = False
    lr_decay: str = "cosine"
    average: bool = True


def learning_rate_factor(
    step: int, steps: int, warmup: float, decay: str = "cosine", *, final_rate: float = 0.01, cooldown: float = 0.0
) -> float:
    """Linear warm-up over the share `warmup` of the steps, then half a cosine (SGDR without restarts; Loshchilov, 2017).

    It falls to `final_rate`, where the share `cooldown` of the steps, the last ones, stays; without any, it would be there behind the last.

    Where `decay` is `linear`, the rate falls in a line instead, which would reach 0 behind the last step.
    """
    assert decay in ("cosine", "linear"), decay
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    if decay == "linear":
        return 1 - (step - rising) / max(1, steps - rising)
    done = min(1.0, (step - rising) / max(1, steps - rising - round(cooldown * steps)))
    return final_rate + (1 - final_rate) * 0.5 * (1 + math.cos(math.pi * done))
