"""Rows of JSON that outlive a call: what is measured is there for the next one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def kept_rows(file: Path) -> list[dict[str, Any]]:
    """A last line without its end is removed: its writer was killed."""
    text = file.read_text() if file.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]


def keep_row(file: Path, row: dict[str, Any]) -> None:
    with file.open("a") as rows:
        rows.write(json.dumps(row) + "\n")


def all_trained(row: Mapping[str, Any]) -> bool:
    """Whether as many trials as the user wanted were trained, to their end or until the scheduler stopped them, and there is no other."""
    trained = sum(row["trials"].get(state, 0) for state in ("complete", "stopped"))
    return trained == row["asked"] == sum(row["trials"].values())
