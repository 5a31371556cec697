"""Measures what it is like to live in this code: `python docs/developing/measure_code.py`, from any folder.

Function lengths, comments, file lengths, entries at the package's top, the README, and the walk of one budget through the files
(`one-budget.md`): how many files it names, and how often it returns to one that it had left.
"""

from __future__ import annotations

import ast
import io
import re
import statistics
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("autoslim", "workers")
ALGORITHMS = ("autoslim/methods", "autoslim/search", "autoslim/cost")
"""Where a comment per step is wanted."""


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def function_lengths(path: Path) -> Iterator[int]:
    """Lines from `def` to the end, the docstring left out."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            documented = (
                isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
            )
            docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
            yield (node.end_lineno or 0) - node.lineno + 1 - docstring


def comments(path: Path) -> int:
    """Lines with a comment that is no instruction to a tool."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    return sum(token.type == tokenize.COMMENT and not re.match(r"# (noqa|type:|nosec)", token.string) for token in tokens)


def comments_per_100_lines(paths: list[Path]) -> float:
    return 100 * sum(map(comments, paths)) / sum(len(path.read_text().splitlines()) for path in paths)


def p90(values: list[int]) -> float:
    return statistics.quantiles(values, n=10)[-1]


def walk() -> tuple[int, int]:
    """Files that the walk of one budget names, and returns to one that it had left."""
    named = re.findall(r"`((?:autoslim|workers)/[\w/]+\.py)`", (ROOT / "docs" / "developing" / "one-budget.md").read_text())
    path = [name for place, name in enumerate(named) if place == 0 or named[place - 1] != name]
    return len(set(path)), len(path) - len(set(path))


def main() -> None:
    files = sources(*PACKAGES)
    functions = [length for path in files for length in function_lengths(path)]
    lengths = [len(path.read_text().splitlines()) for path in files]
    readme = (ROOT / "README.md").read_text()
    entries = [path for path in (ROOT / "autoslim").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    visited, returns = walk()
    rows = {
        "function length, median / p90": f"{statistics.median(functions):g} / {p90(functions):g}",
        "file length, median / p90 / longest": f"{statistics.median(lengths):g} / {p90(lengths):g} / {max(lengths)}",
        "comments per 100 lines": f"{comments_per_100_lines(files):.1f}",
        **{f"comments per 100 lines, {folder}": f"{comments_per_100_lines(sources(folder)):.1f}" for folder in ALGORITHMS},
        "entries at the package's top": str(len(entries)),
        "README, lines / words": f"{len(readme.splitlines())} / {len(readme.split())}",
        "walk of one budget, files / returns": f"{visited} / {returns}",
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")


if __name__ == "__main__":
    main()
