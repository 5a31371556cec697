"""`notebook`: a notebook of `examples/` as a page, with the outputs that it was committed with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def notebook(name: str) -> str:
    """The cells after the title, which is the page's own."""
    cells = json.loads((ROOT / "examples" / name).read_text())["cells"]
    parts = [_code(cell) if cell["cell_type"] == "code" else _text(cell["source"]) for cell in cells]
    body = re.sub(r"\A# .*\n+", "", "\n\n".join(parts))
    # Notebooks name each other by their files, and pages by theirs.
    return re.sub(r"\]\((\w+)\.ipynb\)", lambda found: f"]({found[1].replace('_', '-')}.md)", body) + "\n"


def _code(cell: dict[str, Any]) -> str:
    return "\n\n".join([f"```python\n{_text(cell['source'])}\n```", *map(_output, cell["outputs"])])


def _output(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return f"```text\n{_text(output['text']).rstrip()}\n```"
    data = output["data"]
    if "image/png" in data:
        return f"![](data:image/png;base64,{_text(data['image/png']).strip()})"
    if "text/html" in data:
        # Within a block of HTML an empty line would begin Markdown, and styles are the site's.
        html = re.sub(r"<style.*?</style>", "", _text(data["text/html"]), flags=re.DOTALL)
        return re.sub(r"\n\s*", "\n", html).strip()
    return f"```text\n{_text(data['text/plain'])}\n```"


def _text(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)
