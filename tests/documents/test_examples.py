"""What the documents show works: command lines parse, Python examples compile and run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.command_line import blocks, parse, shell_commands
from helpers.documents import DOCUMENTS, ROOT, each_document

EXAMPLES = [
    pytest.param(path, block, id=f"{path.relative_to(ROOT)}-{number}")
    for path in DOCUMENTS
    for number, block in enumerate(blocks(path.read_text(), "python"))
]


@each_document
def test_command_lines_parse(document: Path):
    for words in shell_commands(document.read_text()):
        if words[0] == "autoslim":
            parse(words)


@each_document
def test_make_has_the_targets_that_are_typed(document: Path):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for words in shell_commands(document.read_text()):
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= set(targets), words


@each_document
def test_scripts_that_are_typed_exist(document: Path):
    for words in shell_commands(document.read_text()):
        scripts = [word for word in words if re.fullmatch(r"(benchmarks|docs|examples)/[\w/]+\.py", word)]
        assert [script for script in scripts if not (ROOT / script).exists()] == []


@each_document
def test_unfinished_python_compiles(document: Path):
    for block in re.findall(r"^```python no-run\n(.*?)^```$", document.read_text(), flags=re.MULTILINE | re.DOTALL):
        compile(block, str(document), "exec")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the demo has left a model, and with an image to classify."""
    from helpers import tiny
    from PIL import Image

    from autoslim.export.artifact import save

    root = tmp_path_factory.mktemp("demo")
    dense, finished = tiny.slimmed("life_regression", "deit")
    save(root / "runs" / "demo" / "models" / "50%", finished.model, tiny.config_of("life_regression", dense, finished))
    Image.new("RGB", (40, 50), "grey").save(root / "image.png")
    return root


@pytest.mark.parametrize(("document", "example"), EXAMPLES)
def test_python_examples_run(
    document: Path, example: str, demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(demo)
    exec(compile(example, str(document), "exec"), {})
    assert capsys.readouterr().out.strip()
