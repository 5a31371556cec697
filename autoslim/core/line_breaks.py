"""Prose in lines that are broken between words, for terminals."""

from __future__ import annotations

import re
import textwrap

_NO_BREAK = "\u00a0"


def broken(text: str, width: int, *, indent: int = 0, long_words: bool = False) -> list[str]:
    """Lines of at most `width` characters, from the second on indented by `indent` spaces. A number stays with its percent sign; a word
    that is longer than a line is broken only with `long_words`."""
    lines = textwrap.wrap(held(text), width, subsequent_indent=" " * indent, break_long_words=long_words, break_on_hyphens=False)
    return [line.replace(_NO_BREAK, " ") for line in lines]


def held(text: str) -> str:
    """The text whose spaces are all places for a break."""
    return re.sub(r"(?<=\d) (?=%)", _NO_BREAK, text)
