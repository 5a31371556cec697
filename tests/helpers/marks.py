"""Marks that several folders give to some of their cases."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from autoslim.methods import METHODS

CI_ONLY = [pytest.mark.slow, pytest.mark.short]
"""For what `make test` has no time for, and CI runs in its second step."""

ONE_OF_A_KIND = ("merge", "width")
"""Of the methods that remove tokens, and of those that remove widths, one each."""


def every_method(names: Iterable[str] = METHODS) -> list[object]:
    """Cases of all methods, of which `make test` runs one of each kind."""
    return [pytest.param(name, marks=() if name in ONE_OF_A_KIND else CI_ONLY) for name in names]
