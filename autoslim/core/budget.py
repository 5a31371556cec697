"""A FLOPs budget as the user writes it.

FLOPs are multiply-accumulates per image, the convention of the ViT papers and of fvcore.
"""

from __future__ import annotations

import dataclasses
import re
from decimal import Decimal

from autoslim.core.record import Record
from autoslim.errors import BudgetError, RequestError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
# Up to two digits of an exponent: no model has 10^100 of anything.
_ABSOLUTE = re.compile(r"((?:\d+(?:\.\d*)?|\.\d+)(?:e\+?\d{1,2})?)\s*([KMGT]?)\s*(?:FLOPs?|MACs?)?", re.IGNORECASE)
_SHARE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*%")

_LIKELY_PERCENT = 100
"""A bare number up to here is meant as a share."""


def format_flops(flops: float) -> str:
    """`4608338304` -> `4.608G`."""
    for unit in ("G", "M", "K"):
        if flops >= _UNITS[unit]:
            return f"{flops / _UNITS[unit]:.4g}{unit}"
    return f"{flops:.0f}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget(Record):
    """`label` is what the user wrote; exactly one of `flops` and `share` (of the dense model) is set."""

    label: str
    flops: int | None = None
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Reads `2.3G`, `850M`, `1300000`, `1.3e9`, `2.3 GFLOPs`, `2.3 GMACs` or `50%`; FLOPs are multiply-accumulates.

        Raises:
            RequestError: for anything else, for zero, and for more than 100 %.
        """
        label = text.strip()
        if match := _SHARE.fullmatch(label):
            share = float(match[1]) / 100
            if not 0 < share <= 1:
                raise RequestError(f"budget {label!r}: a share must be above 0 % and at most 100 %")
            return cls(label=label, share=share)
        if match := _ABSOLUTE.fullmatch(label):
            # Decimal, because 4.1 x 10^9 in binary is one short.
            flops = int(Decimal(match[1]) * _UNITS[match[2].upper()])
            if flops <= 0:
                # Whoever writes 0.5 means a share.
                share = 100 * float(match[1])
                hint = f"; a share is written as {share:.6g}%" if share else ""
                raise RequestError(f"budget {label!r}: FLOPs must be above zero{hint}")
            if flops <= _LIKELY_PERCENT and label.replace(".", "", 1).isdecimal():
                raise RequestError(f"budget {label!r}: {label}%? As multiply-accumulates it is less than any model has")
            return cls(label=label, flops=flops)
        raise RequestError(
            f"budget {label!r} is not valid; allowed: multiply-accumulates such as 2.3G or 850M, or a share such as 50%"
        )

    def flops_of(self, dense_flops: int) -> int:
        """The budget in multiply-accumulates, given those of the dense model, which may be within it already."""
        flops = self.flops if self.share is None else int(self.share * dense_flops)
        assert flops is not None
        return flops

    def resolve(self, dense_flops: int) -> int:
        """The budget in multiply-accumulates, given those of the dense model.

        Raises:
            BudgetError: when the dense model is within the budget already.
        """
        flops = self.flops_of(dense_flops)
        if flops > dense_flops:
            raise BudgetError(
                f"budget {self.label}: the dense model has {format_flops(dense_flops)} multiply-accumulates and is within it already"
            )
        return flops
