"""How soon the service starts its supervisor again."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from autoslim.service import child_process


async def _starts(file: Path, seconds: float) -> int:
    """How often a process that ends at once was started in this time."""
    code = f"open({str(file)!r}, 'a').write('x')"
    async with child_process.child_process([sys.executable, "-S", "-c", code]):
        for _ in range(round(seconds / 0.05)):
            if file.exists() and len(file.read_text()) > 1:
                break
            await asyncio.sleep(0.05)
    return len(file.read_text())


@pytest.mark.parametrize(("well", "at_once"), [(0.0, True), (30.0, False)])
def test_a_process_that_was_well_is_followed_at_once_and_one_that_fails_at_its_start_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, well: float, at_once: bool
) -> None:
    monkeypatch.setattr(child_process, "_WELL_SECONDS", well)
    starts = asyncio.run(_starts(tmp_path / "starts", 10.0 if at_once else 0.5))
    assert (starts > 1) is at_once
