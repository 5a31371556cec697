"""Small pieces of markup that several sections use. All of them escape their texts."""

from __future__ import annotations

import re
from html import escape

MOST_MODELS = 6
"""Delivered models that are shown with pictures; a budget more is a name and a folder."""

LONGEST_NAME = 80
"""Characters of a class or a file in a table."""


_FLAG = re.compile(r"--[a-z][a-z-]*")


def paragraph(text: str) -> str:
    """Flags in it are not broken at their hyphens."""
    whole = _FLAG.sub(r'<span class="flag">\g<0></span>', escape(text))
    return f"<p>{whole}</p>"


def heading(text: str) -> str:
    """Below a section's own."""
    return f"<h3>{escape(text)}</h3>"


def refer(label: str) -> str:
    """In the place of what was shown of the same model before."""
    return paragraph(f"The same model as for {label}, above.")


def shortened(text: str, longest: int = LONGEST_NAME) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
