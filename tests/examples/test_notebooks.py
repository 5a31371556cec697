"""The notebooks run, and are committed with outputs that name no machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.documents import ROOT

EXAMPLES = ROOT / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def cells(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text())["cells"]


def code(notebook: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in cells(notebook) if cell["cell_type"] == "code"]


@each_notebook
def test_it_is_committed_as_it_ran(notebook: Path) -> None:
    ran = [cell for cell in cells(notebook) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in ran] == list(range(1, len(ran) + 1))
    outputs = [output for cell in ran for output in cell["outputs"]]
    assert len(outputs) >= 4
    assert {output["output_type"] for output in outputs} <= {"stream", "execute_result", "display_data"}
    assert {output.get("name") for output in outputs} <= {None, "stdout"}


@each_notebook
def test_its_outputs_name_no_machine(notebook: Path) -> None:
    for cell in cells(notebook):
        for output in cell.get("outputs", ()):
            shown = json.dumps({**output, "data": {k: v for k, v in output.get("data", {}).items() if k != "image/png"}})
            assert re.findall(r"(?<![\w.~:])/(?:home|root|tmp|var|work|usr|Users|venv)\b[^\"\s]*|0x[0-9a-f]{6,}", shown) == []


@each_notebook
def test_it_has_a_page_with_its_code(notebook: Path) -> None:
    sys.path.insert(0, str(ROOT / "docs" / "_generate"))
    try:
        from notebook_page import notebook as page_of
    finally:
        sys.path.pop(0)
    name = notebook.stem.replace("_", "-")
    page = (ROOT / "docs" / "examples" / f"{name}.md").read_text()
    assert f"notebook {notebook.name} -->" in page
    title = "".join(cells(notebook)[0]["source"]).splitlines()[0]
    assert page.startswith(title + "\n")
    made = page_of(notebook.name)
    for block in code(notebook):
        assert f"```python\n{block}\n```" in made
    assert ".ipynb" not in made


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(900)
@each_notebook
def test_it_runs(notebook: Path, tmp_path: Path) -> None:
    pytest.importorskip("nbclient")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(EXAMPLES / "execute.py"), notebook.name, "--into", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=880)
    assert done.returncode == 0, done.stdout + done.stderr
    assert code(tmp_path / notebook.name) == code(notebook)
    kinds = [[output["output_type"] for output in cell.get("outputs", ())] for cell in cells(tmp_path / notebook.name)]
    assert kinds == [[output["output_type"] for output in cell.get("outputs", ())] for cell in cells(notebook)]
