"""Unreadable images: how many there may be, and what is said where there are more."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence

from autoslim.core.job import DatasetSpec
from autoslim.core.unreadable import allowed_count, describe_allowed, parse_allowed
from autoslim.errors import DatasetError, RequestError

MAX_NAMED = 50
"""Unreadable images that are listed by name in reports, at most."""

_SHOWN = 3
"""That the error names; a file has all of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unreadable:
    """Those of a split of `total` images: names and reasons, one an image."""

    split: str
    total: int
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return f"{len(self.lines)} of {self.total} images of the {self.split} split"


def check_allowed(spec: DatasetSpec) -> None:
    """Raises DatasetError for a number or share of unreadable images that cannot be."""
    try:
        parse_allowed(spec.unreadable)
    except RequestError as error:
        raise DatasetError(f"unreadable_share {error}") from None


def check_unreadable(found: Sequence[Unreadable], spec: DatasetSpec, source: str) -> None:
    """Raises DatasetError where a split has more unreadable images than are allowed; its `flags` allow those of every split."""
    over = [one for one in found if len(one.lines) > allowed_count(spec.unreadable, one.total)]
    if not over:
        return
    lines = [line for one in over for line in one.lines]
    flags = ("--unreadable-share", str(max(len(one.lines) for one in found)))
    raise DatasetError(
        f"{' and '.join(map(str, over))} of {source} are unreadable; allowed: {describe_allowed(spec.unreadable, over[0].total)}. Remove "
        f"or repair them, or leave them out with {' '.join(flags)}, a number of images. All are named in {_listed(lines)}, the first: "
        f"{'; '.join(lines[:_SHOWN])}",
        flags=flags,
    )


def _listed(lines: list[str]) -> str:
    """A file with these lines. It is a temporary one: what is prepared for a plan, or fails, leaves no folder behind."""
    descriptor, name = tempfile.mkstemp(prefix="autoslim-unreadable-", suffix=".txt")
    with open(descriptor, "w") as file:
        file.writelines(f"{line}\n" for line in lines)
    return name
