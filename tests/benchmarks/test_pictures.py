"""The pictures of the documents: what they are made from, without a browser; and those that are committed."""

from __future__ import annotations

import html
import re

import pytest
from helpers.documents import DOCUMENTS, ROOT, links

PICTURES = sorted((ROOT / "docs" / "assets").rglob("*.png"))
FRAME = "\r\x1b[2K\x1b[1A\x1b[2K\x1b[1A\x1b[2K"
BARS = (
    "trial 0{} merge 50%  \x1b[32m━━━\x1b[0m  2/5 epochs  loss 0.812  70 images/s\n"
    "trial 0{} width 70%  \x1b[32m━\x1b[0m  1/5 epochs  loss 0.9  {}\nbest 50%  71.4%"
)


def test_every_picture_is_small_and_shown() -> None:
    shown = {(document.parent / target).resolve() for document in DOCUMENTS for target in links(document)}
    assert [path.name for path in PICTURES if path.stat().st_size > 150_000] == []
    assert [path.name for path in PICTURES if path not in shown] == []


def test_a_terminal_is_shown_as_it_was_when_trials_last_ran_side_by_side() -> None:
    from recorded_terminal import running_lines, terminal_page

    raw = "job digits\r\n" + FRAME.join(
        [BARS.format(1, 2, "60 images/s"), BARS.format(3, 4, "50 images/s"), BARS.format(3, 5, "-"), "the end\r\n"]
    )
    lines = running_lines(raw.replace("\n", "\r\n").replace("\r\r", "\r"), columns=80, bars=2)
    page = terminal_page(lines, columns=80)
    assert "\x1b" not in page
    text = html.unescape(re.sub(r"<[^>]+>", "", page))
    assert "job digits" in text
    assert re.search(r"trial 03 merge 50%  ━━━  2/5 epochs  loss 0.812  70 images/s\ntrial 04 width 70%", text)
    assert "the end" not in text
    assert "trial 01" not in text
    # It has only just begun.
    assert "trial 05" not in text
    # The bars are green.
    assert re.search(r'<span style="color: #[0-9a-f]{6}[^"]*">━━━</span>', page)


def test_a_recording_without_trials_side_by_side_is_told() -> None:
    from recorded_terminal import running_lines

    with pytest.raises(ValueError, match="never shows 2 trials"):
        running_lines("job digits\r\n" + FRAME, columns=80, bars=2)
