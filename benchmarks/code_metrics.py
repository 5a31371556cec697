"""What the code is like to read, in numbers: `python -m benchmarks.code_metrics [--rev REVISION]`.

Prints a Markdown table of the checkout and, with `--rev`, of a revision that git has. Nothing is fetched, and the same files give
the same numbers.

- A function's length: all lines from `def` to its end, the docstring included.
- Comments: lines that are a comment and nothing else, per 100 lines of any kind.
- A room: what is at the top of a package, a folder or a module. An arrow: one room imports from another. A circle: modules that import from
  each other, directly or by way of others.
- A setting's files: those that name it, outside the tests.
- The walk of one budget: the files that `docs/developing/one-budget.md` leads through, and how often it returns to one that it had left.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import graphlib
import io
import json
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("autoslim", "workers")
ALGORITHMS = ("autoslim/methods", "autoslim/search")
WALK = "docs/developing/one-budget.md"
SETTING = "final_share"

_IMPORTS = """
import grimp, json, sys
graph = grimp.build_graph(*sys.argv[1:], cache_dir=None)
print(json.dumps({name: sorted(graph.find_modules_directly_imported_by(name)) for name in graph.modules}))
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imports:
    rooms: int
    arrows: int
    circle: str


def measure(root: Path) -> dict[str, str]:
    """The table's rows by their names."""
    files = [file for package in PACKAGES for file in python_files(root / package)]
    lengths = sorted(length for file in files for length in function_lengths(file))
    sizes = sorted(len(file.read_text().splitlines()) for file in files)
    readme = (root / "README.md").read_text()
    imports = import_graph(root)
    rows = {
        "function length, median / p90 / longest": f"{statistics.median(lengths):g} / {quantile(lengths, 0.9)} / {lengths[-1]}",
        "file length, median / p90 / longest": f"{statistics.median(sizes):g} / {quantile(sizes, 0.9)} / {sizes[-1]}",
        "`#` comments per 100 lines": f"{comment_share(files):.1f}",
    }
    for folder in ALGORITHMS:
        rows[f"the same in `{folder}/`"] = f"{comment_share(list(python_files(root / folder))):.1f}"
    return rows | {
        "entries at the top of `autoslim/`": str(top_entries(root / "autoslim")),
        "README lines / words": f"{len(readme.splitlines())} / {len(readme.split()):,}",
        "rooms / arrows between them": f"{imports.rooms} / {imports.arrows}",
        "import circle": imports.circle,
        f"files that name the setting `{SETTING}`": str(files_naming(SETTING, root)),
        "walk of one budget, files / returns": walk_of_one_budget(root),
    }


def python_files(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.rglob("*.py")) if "migrations" not in file.parts)


def function_lengths(file: Path) -> Iterator[int]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.end_lineno - node.lineno + 1


def comment_share(files: list[Path]) -> float:
    """Comment lines per 100 lines."""
    lines = [line.strip() for file in files for line in file.read_text().splitlines()]
    return 100 * sum(line.startswith("#") for line in lines) / len(lines)


def top_entries(package: Path) -> int:
    """Folders and modules."""
    return len([entry for entry in package.iterdir() if entry.suffix == ".py" or (entry / "__init__.py").is_file()])


def files_naming(word: str, root: Path) -> int:
    """Files of the repository outside the tests; found by folders, so that no git is needed where the files are not a checkout."""
    folders = ("autoslim", "workers", "search_spaces", "benchmarks", "deploy", "docs")
    found = [*root.glob("*.md"), *(file for folder in folders for file in (root / folder).rglob("*"))]
    return sum(word.encode() in file.read_bytes() for file in found if file.is_file() and file.suffix != ".pyc")


def walk_of_one_budget(root: Path) -> str:
    if not (root / WALK).is_file():
        return "not written down"
    named = re.findall(r"`((?:autoslim|workers)/[\w/]+\.py)`", (root / WALK).read_text())
    path = [name for place, name in enumerate(named) if place == 0 or named[place - 1] != name]
    return f"{len(set(path))} / {len(path) - len(set(path))}"


def import_graph(root: Path) -> Imports:
    names = [name for name in (*PACKAGES, "search_spaces") if (root / name).is_dir()]
    done = subprocess.run([sys.executable, "-c", _IMPORTS, *names], cwd=root, capture_output=True, text=True, check=True)
    imports = json.loads(done.stdout)
    arrows: dict[str, set[str]] = {room_of(name): set() for name in imports}
    for name, targets in imports.items():
        arrows[room_of(name)] |= {room_of(target) for target in targets} - {room_of(name)}
    try:
        graphlib.TopologicalSorter(imports).prepare()
        circle = "none"
    except graphlib.CycleError as error:
        circle = " → ".join(reversed(error.args[1]))
    return Imports(rooms=len(arrows), arrows=sum(map(len, arrows.values())), circle=circle)


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def quantile(ordered: list[int], share: float) -> int:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def measure_revision(revision: str) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
        return measure(Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rev", action="append", default=[], help="A revision to show beside the checkout; may be repeated.")
    revisions = parser.parse_args().rev
    columns = {revision: measure_revision(revision) for revision in revisions} | {"checkout": measure(ROOT)}
    print("| | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for row in columns["checkout"]:
        print(f"| {row} | " + " | ".join(found[row] for found in columns.values()) + " |")


if __name__ == "__main__":
    main()
