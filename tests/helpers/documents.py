"""The documents of the repository, and their links as Markdown has them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    path
    for pattern in ("*.md", "deploy/*.md", "search_spaces/*.md", "benchmarks/*.md", "examples/*.md", "docs/**/*.md")
    for path in sorted(ROOT.glob(pattern))
]
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def anchor(heading: str) -> str:
    """The name that GitHub and MkDocs give a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


def anchors(document: Path) -> list[str]:
    return [anchor(heading) for heading in re.findall(r"^#+ (.*)$", prose(document.read_text()), flags=re.MULTILINE)]


def prose(markdown: str) -> str:
    """Without fenced blocks."""
    return re.sub(r"^( *)```.*?^\1```$", "", markdown, flags=re.DOTALL | re.MULTILINE)


def links(document: Path) -> list[str]:
    """The targets of links and pictures that lead to files."""
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose(document.read_text())) if "://" not in target]
