"""A small notebook about a finished search, run, as a page that a browser can take a picture of."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

_SECONDS = 300

_PAGE = """<!DOCTYPE html>
<meta charset="utf-8">
<style>
body {{ display: inline-block; margin: 0; padding: 16px; font: 14px/1.4 'DejaVu Sans', sans-serif; color: #1a1a1a; background: #fff }}
.cell {{ display: grid; grid-template-columns: 3.5em auto; margin-bottom: 12px }}
.number {{ color: #307fc1; font: 13px/1.5 'DejaVu Sans Mono', monospace }}
pre {{ margin: 0; font: 13px/1.5 'DejaVu Sans Mono', monospace }}
.code pre {{ padding: 6px 10px; background: #f5f5f5; border: 1px solid #ddd }}
table {{ border-collapse: collapse }}
th, td {{ padding: 2px 10px; text-align: right }}
tr:nth-child(even) td {{ background: #f5f5f5 }}
</style>
<body>{cells}
"""


def notebook_page(sources: list[str], folder: Path) -> str:
    """The cells with their outputs, as HTML; they run in `folder`."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    NotebookClient(notebook, timeout=_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    return _PAGE.format(cells="\n".join(map(_cell, notebook.cells)))


def _cell(cell: Any) -> str:
    # Libraries warn there of what the machine lacks.
    shown = [output for output in cell.outputs if output.get("name") != "stderr"]
    outputs = "".join(f'<div class="cell"><span></span><div>{_output(output)}</div></div>' for output in shown)
    number = f'<span class="number">[{cell.execution_count}]:</span>'
    return f'<div class="cell code">{number}<pre>{escape(cell.source)}</pre></div>{outputs}'


def _output(output: Any) -> str:
    if output.output_type == "stream":
        return f"<pre>{escape(output.text)}</pre>"
    data = output.data
    if "text/html" in data:
        return str(data["text/html"])
    if "image/png" in data:
        return f'<img alt="" src="data:image/png;base64,{data["image/png"].strip()}">'
    return f"<pre>{escape(data['text/plain'])}</pre>"
