"""Runs the notebooks and writes their outputs into them, without what differs from machine to machine.

    python examples/execute.py [NAME.ipynb ...] [--into FOLDER]

`--into` writes the executed notebooks there and leaves these as they are.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
SECONDS = 900


def execute(notebook: Any) -> Any:
    """Runs it in an empty folder, where its outputs stay as long as it runs."""
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
        return portable(notebook, folder)


def portable(notebook: Any, folder: str) -> Any:
    """Without progress on stderr, times of execution, and names of folders and interpreters of this machine."""
    names = {str(Path(folder).resolve()): ".", folder: ".", sys.executable: "python", sys.prefix: ".venv", str(Path.home()): "~"}
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
        if cell.cell_type == "code":
            cell.outputs = [_replaced(output, names) for output in map(_without_progress, cell.outputs) if _is_shown(output)]
    return notebook


def _is_shown(output: Any) -> bool:
    """Not progress, and not the empty places that Ray and the bars keep for their own."""
    return output.get("name") != "stderr" and output.get("data", {}).get("text/html") != "" and output.get("text") != ""


def _without_progress(output: Any) -> Any:
    """Lines of progress begin with the time of day."""
    if output.get("name") == "stdout":
        output.text = re.sub(r"^\d\d:\d\d:\d\d .*\n", "", output.text, flags=re.MULTILINE)
    return output


def _replaced(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, str):
        for found, shown in names.items():
            value = value.replace(found, shown)
        # Objects are shown with their address in memory.
        return re.sub(r" at 0x[0-9a-f]+", "", value)
    if isinstance(value, list):
        return [_replaced(each, names) for each in value]
    if isinstance(value, dict):
        return type(value)({name: each if name == "image/png" else _replaced(each, names) for name, each in value.items()})
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the notebooks and write their outputs into them.")
    parser.add_argument("names", nargs="*", default=sorted(path.name for path in HERE.glob("*.ipynb")))
    parser.add_argument("--into", type=Path, default=HERE)
    arguments = parser.parse_args()
    for name in arguments.names:
        executed = execute(nbformat.read(HERE / name, as_version=4))
        nbformat.validate(executed)
        nbformat.write(executed, arguments.into / name)
        print(f"{name}: {len(executed.cells)} cells")


if __name__ == "__main__":
    main()
