"""`DivergenceWatch`: which part of the loss was the first that is not a finite number, and at which step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class DivergenceWatch:
    """Observes every step on the device, since reading a value would wait for the GPU to finish its queue, and is read at the end."""

    def __init__(self, device: torch.device) -> None:
        self._never = torch.full((), float("inf"), device=device)
        self._first: dict[str, Tensor] = {}

    def observe(self, curves: Mapping[str, Tensor], step: int) -> None:
        for name, value in curves.items():
            # A later step cannot replace an earlier one: everything is not finite once the weights are not.
            found = torch.where(torch.isfinite(value), self._never, torch.full_like(self._never, step))
            self._first[name] = torch.minimum(self._first.get(name, self._never), found)

    def describe(self) -> str:
        """The parts, the whole loss left out where a part of it diverged as early; empty where all are finite."""
        steps = {name: float(step) for name, step in self._first.items()}
        earliest = min(steps.values(), default=float("inf"))
        if earliest == float("inf"):
            return ""
        names = [name for name, step in steps.items() if step == earliest]
        parts = [name for name in names if name != "loss"] or names
        return f"first not finite: {', '.join(parts)}, at step {int(earliest)}"
