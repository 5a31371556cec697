"""Marks that several folders give to some of their cases."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from autoslim.methods import METHODS, WITH_AN_OPTION

CI_ONLY = [pytest.mark.slow, pytest.mark.short]
"""For what `make test` has no time for, and CI runs in its second step."""

ONE_OF_A_KIND = ("merge", "width")
"""Of the methods that remove tokens, and of those that remove widths, one each."""

DISTINCT = tuple(name for name in METHODS if name not in WITH_AN_OPTION)
"""Methods whose code no other one has. What tests every method tests the others where it tests variants."""


def marks_of(name: str) -> list[pytest.MarkDecorator]:
    """Of the cases of a method where `make test` runs one of each kind."""
    return [] if name in ONE_OF_A_KIND else [pytest.mark.slow] if name in WITH_AN_OPTION else CI_ONLY


def every_method(names: Iterable[str] = METHODS) -> list[object]:
    """Cases of all methods, of which `make test` runs one of each kind."""
    return [pytest.param(name, marks=marks_of(name)) for name in names]
