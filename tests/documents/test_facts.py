"""What the documents list is what there is in the code."""

from __future__ import annotations

import re
import tomllib

from helpers.command_line import blocks
from helpers.documents import ROOT

from autoslim.methods import METHODS

DEVELOPING = ROOT / "docs" / "developing"


def rows(text: str) -> list[list[str]]:
    """The rows of all tables, heads left out."""
    lines = re.findall(r"^\|(.*)\|$", text, flags=re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines if not set(line) <= set("-| ")]


def test_the_layers_are_drawn_from_the_top_down() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    picture = blocks((DEVELOPING / "layout.md").read_text(), "")[0]
    where = [
        {picture[: re.search(rf"{re.escape(name)}\b", picture).start()].count("\n") for name in re.split(r"\s*\|\s*", layer)}  # type: ignore[union-attr]
        for layer in contract["layers"]
    ]
    assert where == [{line} for line in range(len(where))], list(zip(contract["layers"], where, strict=True))


def test_every_method_has_a_page_and_its_paper() -> None:
    overview, readme = (ROOT / "docs" / "methods" / "index.md").read_text(), (ROOT / "README.md").read_text()
    for name, method in METHODS.items():
        assert method.paper in (ROOT / "docs" / "methods" / f"{name}.md").read_text()
        assert f"[`{name}`]({name}.md)" in overview
        assert re.search(rf"^\| \[`{name}`\].*{re.escape(method.paper)}", readme, flags=re.MULTILINE)


def test_the_glossary_has_each_word_once() -> None:
    words = [
        word.strip() for row in rows((DEVELOPING / "glossary.md").read_text()) for word in row[0].split(",") if row[0] != "Word"
    ]
    assert sorted(set(words)) == sorted(words)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_folder_is_in_the_layout() -> None:
    text = (DEVELOPING / "layout.md").read_text()
    folders = [path.parent for top in ("autoslim", "workers") for path in (ROOT / top).glob("*/__init__.py")]
    assert [str(folder) for folder in folders if f"`{folder.relative_to(ROOT)}/`" not in text] == []


def test_the_walk_names_what_is_in_the_files() -> None:
    text = (DEVELOPING / "one-budget.md").read_text()
    named = re.findall(r"`([\w/]+\.py)`: `(?:\w+\.)?(\w+)`", text)
    assert len(named) > 10
    assert [(path, name) for path, name in named if f" {name}(" not in (ROOT / path).read_text()] == []


def test_the_glossary_names_classes_and_functions_that_there_are() -> None:
    code = "".join(path.read_text() for top in ("autoslim", "workers") for path in (ROOT / top).rglob("*.py"))
    named = re.findall(r"\(`(\w+)`\)", (DEVELOPING / "glossary.md").read_text())
    assert [name for name in named if not re.search(rf"^(class|def) {name}\b", code, flags=re.MULTILINE)] == []


def test_what_is_promised_of_a_head_that_is_killed_is_what_was_measured() -> None:
    """Where a user reads of a cluster whose state is kept in a Redis."""
    measured = rows((ROOT / "docs" / "benchmarks" / "service-faults.md").read_text())
    (attempts,) = [row[3] for row in measured if row[0] == "Ray's head killed, back after 20 s with its state"]
    chart = ROOT / "deploy" / "helm" / "autoslim"
    page = rows((ROOT / "docs" / "service" / "deploy.md").read_text())
    texts = {
        "the page's table": " ".join(row[1] for row in page if row[0] == "`values-gcs-ft.yaml`"),
        "values-gcs-ft.yaml": (chart / "values-gcs-ft.yaml").read_text(),
        "values.yaml": (chart / "values.yaml").read_text().partition("  redis:")[0][-300:],
    }
    for name, text in texts.items():
        words = " ".join(text.replace("#", "").split())
        assert ("running search" in words and "another attempt" in words) is (int(attempts) > 1), name


def test_every_extra_can_be_installed() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"'\./autoslim\[(\w+)\]'", (ROOT / "docs" / "get-started.md").read_text())
    assert set(named) == set(extras) - {"dev", "docs"}
