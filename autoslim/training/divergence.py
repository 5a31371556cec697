"""`LateCheck`: whether a loss is finite; `DivergenceWatch`: which part of it was the first that is not, and at which step."""

from __future__ import annotations

import math
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


class LateCheck:
    """Whether a value is finite, answered where a GPU is used when the next one is asked about: it has been computed by then, and reading
    it waits for nothing."""

    def __init__(self) -> None:
        self._asked: tuple[Tensor, torch.cuda.Event] | None = None

    def is_finite(self, value: Tensor) -> bool:
        """Whether `value` is, on a CPU; on a GPU whether the one before was, True for the first."""
        if value.device.type != "cuda":
            return bool(torch.isfinite(value))
        asked, event = self._asked, torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._asked = value.to("cpu", non_blocking=True), event
        event.record()
        if asked is None:
            return True
        asked[1].synchronize()
        return math.isfinite(asked[0])
