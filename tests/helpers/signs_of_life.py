"""The signs of life that work gives (`autoslim.core.activity`)."""

from __future__ import annotations

import pytest

from autoslim.core import activity


def counted_marks(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows by an entry with each mark from now on."""
    marks: list[None] = []
    monkeypatch.setattr(activity, "mark", lambda: marks.append(None))
    return marks
