"""Links of the documents lead somewhere; those of the site are checked by its strict build, too."""

from __future__ import annotations

import re
from pathlib import Path

from helpers.documents import ROOT, anchors, each_document, links, prose

GENERATED = ("docs/reference/",)
"""Pages whose headings are made when the site is built, which checks their anchors."""


@each_document
def test_relative_links_lead_somewhere(document: Path) -> None:
    for target in links(document):
        path, _, name = target.partition("#")
        found = (document.parent / path) if path else document
        assert found.exists(), target
        if name and not str(found.resolve().relative_to(ROOT)).startswith(GENERATED):
            assert name in anchors(found), target


@each_document
def test_files_that_are_named_exist(document: Path) -> None:
    if document.name == "CHANGELOG.md":
        return
    named = re.findall(
        r"`((?:autoslim|workers|tests|deploy|docs|benchmarks|examples|search_spaces)/[\w./-]+)`", prose(document.read_text())
    )
    assert [path for path in named if not (ROOT / path).exists()] == []


@each_document
def test_no_page_leaves_the_site(document: Path) -> None:
    """A page of the site cannot link a file outside `docs/`: where the site is served there is none."""
    docs = ROOT / "docs"
    if docs not in document.parents:
        return
    outside = [target for target in links(document) if docs not in (document.parent / target.partition("#")[0]).resolve().parents]
    assert [target for target in outside if not target.startswith("#")] == []
