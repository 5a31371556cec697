"""How fast a slimmed model is beside its dense one, as it was measured: part of the model's `config.json`."""

from __future__ import annotations

import dataclasses

from autoslim.core.record import Record

RELIABLE_WITHIN = 0.2
"""Share of a measured speed-up that its quartiles may lie apart."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing(Record):
    """Both models timed in turns: medians in milliseconds per batch, and the median and quartiles of the speed-up per round."""

    mode: str
    device: str
    batch: int
    dense_ms: float
    slimmed_ms: float
    speedup: float
    low: float
    high: float
    rounds: int

    @property
    def is_reliable(self) -> bool:
        """Whether half of the rounds, those between the quartiles, agree within `RELIABLE_WITHIN`; on a busy machine they do not."""
        return self.high - self.low <= RELIABLE_WITHIN * self.speedup

    def describe_speedup(self) -> str:
        """`1.62 (1.55-1.70)`: the factor with its quartiles, marked where they lie far apart."""
        return f"{self.speedup:.2f} ({self.low:.2f}-{self.high:.2f}){'' if self.is_reliable else ' unreliable'}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeedReport(Record):
    """Speed measured on `hardware` with `threads` threads; `left_out` maps what could not be measured to the reason."""

    hardware: str
    threads: int
    timings: tuple[Timing, ...]
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)

    def explain_speedups(self) -> str:
        """What the factors are, in a sentence or two."""
        meaning = (
            "Times as fast is the median over all rounds of the ratio of both times in one round, with its quartiles; not the ratio of the "
            "medians."
        )
        doubt = f" It is unreliable where the quartiles lie more than {RELIABLE_WITHIN:.0%} of it apart: other work disturbed the rounds."
        return meaning if all(timing.is_reliable for timing in self.timings) else meaning + doubt

    @property
    def fastest(self) -> Timing | None:
        """The fastest way to run the model on one image, on a GPU where there is one; None where none was measured."""
        single = [timing for timing in self.timings if timing.batch == 1]
        return min(single, key=lambda timing: (timing.device == "cpu", timing.slimmed_ms), default=None)
