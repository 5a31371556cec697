"""Limits besides the FLOPs, as the user writes them: parameters, and latency per batch."""

from __future__ import annotations

import dataclasses
import re
from decimal import Decimal

from autoslim.core.budget import Budget
from autoslim.core.record import Record
from autoslim.errors import RequestError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}
_PARAMS = re.compile(r"(\d{1,15}(?:\.\d*)?|\.\d+)\s*([KMGB]?)", re.IGNORECASE)
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_LATENCY = re.compile(r"(\d{1,9}(?:\.\d*)?|\.\d+)\s*(us|ms|s)\s*(?:@\s*(\d{1,5}))?", re.IGNORECASE)
MAX_BATCH = 1024
"""The largest batch size of a latency limit."""


def format_params(params: float) -> str:
    """`12000000` -> `12M`."""
    for unit in ("G", "M", "K"):
        if params >= _UNITS[unit]:
            return f"{params / _UNITS[unit]:.4g}{unit}"
    return f"{params:.0f}"


def parse_params(text: str) -> int:
    """Reads `12M`, `850K` or `1300000`.

    Raises:
        RequestError: for anything else, and for zero. The message continues the name of the flag.
    """
    match = _PARAMS.fullmatch(text.strip())
    if match is None:
        raise RequestError(f"is {text!r}; allowed: a number of parameters such as 12M, 850K or 1300000")
    params = int(Decimal(match[1]) * _UNITS[match[2].upper()])
    if params <= 0:
        raise RequestError(f"is {text!r}; allowed: above zero")
    return params


def parse_latency(text: str) -> tuple[float, int]:
    """Milliseconds and batch size of `5ms@1`, `0.8s@8` or `5ms`.

    Raises:
        RequestError: for anything else, for zero, and for a batch above `MAX_BATCH`. The message continues the name of the flag.
    """
    match = _LATENCY.fullmatch(text.strip())
    if match is None:
        raise RequestError(f"is {text!r}; allowed: a time and a batch size such as 5ms@1, 0.8s@8 or 5ms (batch 1)")
    milliseconds, batch = float(match[1]) * _MILLISECONDS[match[2].lower()], int(match[3] or 1)
    if not milliseconds > 0:
        raise RequestError(f"is {text!r}; allowed: above zero")
    if not 1 <= batch <= MAX_BATCH:
        raise RequestError(f"is {text!r}; allowed: a batch of 1 to {MAX_BATCH} images")
    return milliseconds, batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class CostLimits(Record):
    """Limits on a model besides its FLOPs, all of which must hold; None means no limit.

    `latency_ms` is the time of a batch of `batch` images on the device that a trial runs on, in the mode `mode`, one of
    `job.SPEED_MODES`.
    """

    params: int | None = None
    latency_ms: float | None = None
    batch: int = 1
    mode: str = "eager"

    @property
    def given(self) -> bool:
        return self.params is not None or self.latency_ms is not None

    @property
    def label(self) -> str:
        """The limits in short, such as `5ms@1+12M-params`; also the name of a folder."""
        params = None if self.params is None else f"{format_params(self.params)}-params"
        return "+".join(part for part in (self.latency, params) if part)

    @property
    def latency(self) -> str | None:
        """The latency limit as `parse_latency` reads it."""
        return None if self.latency_ms is None else f"{self.latency_ms:.9g}ms@{self.batch}"

    @property
    def flags(self) -> str:
        latency = None if self.latency is None else f"--latency {self.latency}"
        params = None if self.params is None else f"--params {format_params(self.params)}"
        return " ".join(part for part in (latency, params) if part)


def budget_of_limits(limits: CostLimits) -> Budget:
    """The budget of a request that has limits alone: all of the dense model's FLOPs."""
    return Budget(label=limits.label, share=1.0)


def request_flags(budget: Budget, limits: CostLimits) -> str:
    """A request's budget and limits as command-line flags."""
    return " ".join(
        part for part in ("" if budget == budget_of_limits(limits) else f"--flops {budget.label}", limits.flags) if part
    )
