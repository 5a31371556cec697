"""What a method lets a search vary."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from autoslim.core.recipe import Knobs
from autoslim.core.record import Record
from autoslim.errors import SpaceError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Knob(Record):
    """A scalar setting of a method. `kind` is `float`, `int`, `layer` or `choice`.

    A `layer` is a block index in a recipe; its range, here and in a search space, is in shares of the depth, so that one space serves
    models of every depth. `cost_sign` is +1 or -1 where the FLOPs rise or fall with the knob and the budget solver moves it; 0 where
    they do not depend on it, or the solver must leave it alone. A knob with a cost sign is a `float`. `searched` is False where no
    space names the knob and no sampler draws it: only the solver sets it (through `Method.costlier`), or all new recipes have its default
    and those of earlier versions do not have it. `log` asks samplers for a logarithmic scale. `allowed` are the ends of what a recipe or
    a search space may set, where that is more than `low` to `high`, in which a search draws.
    """

    kind: str
    help: str
    default: Any
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] | None = None
    cost_sign: int = 0
    searched: bool = True
    allowed: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        assert not self.cost_sign or self.kind == "float", f"a knob with a cost sign is a float, not {self.kind}"

    @property
    def widest(self) -> tuple[float, float]:
        """The ends of what may be set: `allowed`, or the searched range."""
        assert self.low is not None and self.high is not None
        return (self.low, self.high) if self.allowed is None else self.allowed

    def check(self, value: Any, name: str, *, depth: int) -> None:
        """Raises SpaceError when `value` is not allowed for this knob in a recipe for a model of `depth` blocks."""
        if self.kind == "choice":
            assert self.choices is not None
            if value not in self.choices:
                raise SpaceError(f"{name} is {value!r}; allowed: {', '.join(map(repr, self.choices))}")
            return
        low, high = (1, depth - 1) if self.kind == "layer" else self.widest
        whole = self.kind != "float"
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not low <= value <= high:
            raise SpaceError(f"{name} is {value!r}; allowed: {'a whole number ' if whole else ''}from {low:g} to {high:g}")


Ranges = dict[str, Knob]
"""Knobs by name; a search space may have narrowed their bounds."""


def layer_index(share: float, depth: int) -> int:
    """The block index at `share` of the depth; at least 1, because no block has seen the tokens in front of block 0."""
    # Half a block always rounds up, as `round` does not: it goes to the even block, a quarter of 6 up and a quarter of 10 down.
    # The 1e-9 is for shares such as 1/6, which floats hold a little too small.
    return min(max(math.floor(share * depth + 0.5 + 1e-9), 1), depth - 1)


def complete(ranges: Ranges, knobs: Knobs, *, depth: int) -> Knobs:
    """`knobs` with defaults for what is missing.

    Raises:
        SpaceError: for an unknown knob, or a value outside its range.
    """
    unknown = sorted(set(knobs) - set(ranges))
    if unknown:
        raise SpaceError(f"there is no knob {unknown[0]!r}; allowed: {', '.join(ranges)}")
    filled = {}
    for name, knob in ranges.items():
        default = layer_index(knob.default, depth) if knob.kind == "layer" else knob.default
        filled[name] = knobs.get(name, default)
        knob.check(filled[name], name, depth=depth)
    return filled


def fixed(ranges: Ranges, **values: Any) -> Ranges:
    """`ranges` in which each choice that is named has this value alone: those of a method that is another one with it."""
    assert all(value in (ranges[name].choices or ()) for name, value in values.items()), values
    return ranges | {name: ranges[name].replace(choices=(value,), default=value) for name, value in values.items()}
