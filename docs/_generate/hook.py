"""The site's hook for MkDocs: puts what is made from the code in the place of `<!-- made from the code: NAME ARGUMENTS -->`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import reference

MARKER = re.compile(r"^<!-- made from the (?:code|documents): (\w+)((?: [\w./-]+)*) -->$", re.MULTILINE)
INDENTED_FENCE_INFO = re.compile(r"^(```\w+) no-run$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fills the markers. `no-run` behind a fence's language is for the tests and no Markdown."""
    filled = MARKER.sub(lambda found: reference.PARTS[found[1]](*found[2].split()), markdown)
    return INDENTED_FENCE_INFO.sub(r"\1", filled)
