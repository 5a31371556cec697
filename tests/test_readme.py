"""The documents: links lead somewhere, command lines parse, examples run, and what they list is what there is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from helpers.command_line import COMMANDS, blocks, parse, shell_commands

from autoslim.errors import AutoslimError

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [
    path
    for pattern in ("*.md", "deploy/*.md", "search_spaces/*.md", "benchmarks/*.md", "docs/**/*.md")
    for path in sorted(ROOT.glob(pattern))
]
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def section(title: str) -> str:
    """The README's text below a heading, up to the next one."""
    _, heading, rest = README.partition(f"\n## {title}\n")
    assert heading, title
    return rest.partition("\n## ")[0]


def anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


@each_document
def test_relative_links_lead_somewhere(document: Path):
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, name = target.partition("#")
        found = (document.parent / path) if path else document
        assert found.exists(), target
        if name:
            assert name in [anchor(heading) for heading in re.findall(r"^#+ (.*)$", found.read_text(), flags=re.MULTILINE)], (
                target
            )


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
def test_python_examples_compile(document: Path):
    for block in blocks(document.read_text(), "python"):
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


@pytest.mark.parametrize("number", range(len(blocks(README, "python"))))
def test_python_examples_run(number: int, demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(demo)
    exec(compile(blocks(README, "python")[number], "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_is_explained(command: str):
    text = section("On your own data") + section("The service")
    flags = [flag for param in COMMANDS[command].params for flag in (*param.opts, *param.secondary_opts) if flag.startswith("--")]
    for flag in flags:
        assert re.search(rf"{flag}(?![\w-])", text), f"{command} {flag}"


@pytest.mark.parametrize("flag", ["trials", "epochs", "batch-size", "lr", "base-epochs"])
def test_defaults_are_those_of_the_job(flag: str):
    from autoslim.config import Placement, read_mapping

    job = read_mapping({"model": "m", "data": "d", "flops": ["50%"]}).to_job(id="j", placement=Placement(output="o"))
    real = {
        "trials": job.trials,
        "epochs": job.training.epochs,
        "batch-size": job.training.batch_size,
        "lr": job.training.lr,
        "base-epochs": job.base.epochs,
    }
    (row,) = re.findall(rf"^\| `--{flag} .*$", section("On your own data"), flags=re.MULTILINE)
    (told,) = re.findall(r"default ([\d.e-]+)", row, flags=re.IGNORECASE)
    assert float(told) == real[flag]


def test_exit_codes_are_those_of_the_errors():
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", section("Exit codes"), flags=re.MULTILINE)}

    def codes(error: type[AutoslimError]) -> set[int]:
        return {error.exit_code}.union(*(codes(child) for child in error.__subclasses__()))

    assert told == codes(AutoslimError) | {0, 130}


def test_the_picture_of_the_layers_names_them_from_the_top_down():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    picture = blocks(section("How the code is laid out"), "")[0]
    lines = [
        max(picture[: re.search(rf"{re.escape(name)}\b", picture).start()].count("\n") for name in re.split(r"\s*\|\s*", layer))  # type: ignore[union-attr]
        for layer in contract["layers"]
    ]
    assert lines == sorted(lines), list(zip(contract["layers"], lines, strict=True))


def test_every_method_is_described_with_its_paper():
    from autoslim.methods import METHODS

    for name, method in METHODS.items():
        (row,) = re.findall(rf"^\| `{name}` \|.*$", section("Methods"), flags=re.MULTILINE)
        assert method.paper in row
