"""Small pieces of markup that several sections use. All of them escape their texts."""

from __future__ import annotations

from html import escape

MOST_MODELS = 6
"""Delivered models that are shown with pictures; a budget more is a name and a folder."""

LONGEST_NAME = 80
"""Characters of a class or a file in a table."""


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def heading(text: str) -> str:
    """Below a section's own."""
    return f"<h3>{escape(text)}</h3>"


def refer(label: str) -> str:
    """In the place of what was shown of the same model before."""
    return paragraph(f"The same model as for {label}, above.")


def shortened(text: str, longest: int = LONGEST_NAME) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
