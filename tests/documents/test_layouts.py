"""The table of layouts in docs/data.md is what the code makes of data sets of each."""

from __future__ import annotations

from pathlib import Path

from helpers.layouts import BEGIN, DOCUMENT, END, table


def test_the_table_of_layouts_is_current(tmp_path: Path) -> None:
    committed = DOCUMENT.read_text().partition(BEGIN)[2].partition(END)[0].strip()
    assert committed == table(tmp_path).strip(), "python tests/helpers/layouts.py writes it anew"
