"""The accuracies on the methods' pages are those of the published runs, each under the budget that it was measured at."""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable

import pyarrow.parquet as pq
import pytest
from helpers.documents import ROOT

from autoslim.methods import METHODS, WITH_AN_OPTION

FIGURE = re.compile(r"\d+\.\d+")


@pytest.fixture(scope="module")
def measured() -> Callable[[str], str]:
    """The table on a method's page, as the site is built."""
    sys.path.insert(0, str(ROOT / "docs" / "_generate"))
    try:
        import reference
    finally:
        sys.path.pop(0)
    return reference.measured


@pytest.fixture(scope="module")
def published() -> dict[tuple[str, str], float]:
    """Mean test accuracy of the seeds, in per cent, by row and budget."""
    runs = pq.read_table(ROOT / "benchmarks" / "data" / "methods_cifar10.parquet", columns=["facts"])
    by_key: dict[tuple[str, str], list[float]] = {}
    for text in runs["facts"].to_pylist():
        facts = json.loads(text)
        if not facts.get("error"):
            by_key.setdefault((facts["name"], facts["budget"]), []).append(100 * facts["test"])
    return {key: statistics.fmean(seeds) for key, seeds in by_key.items()}


MEASURED = tuple(name for name in METHODS if name not in WITH_AN_OPTION)
"""The others are rows on the pages of the methods that they are options of."""


@pytest.mark.parametrize("method", MEASURED)
def test_a_methods_page_has_what_was_measured_under_its_budget(
    measured: Callable[[str], str], published: dict[tuple[str, str], float], method: str
) -> None:
    assert f"<!-- made from the documents: measured {method} -->" in (ROOT / "docs" / "methods" / f"{method}.md").read_text()
    lines = [line.strip("|").split("|") for line in measured(method).splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line] for line in lines]
    assert rows[0][0] == method or rows[0][0].startswith(f"{method}_")
    assert any(FIGURE.fullmatch(cell) for cell in rows[0])
    for name, *cells in rows:
        if name.startswith("dense"):
            assert FIGURE.findall(name) == [f"{published['dense', '100%']:.2f}"]
            continue
        assert len(cells) == len(head) - 1
        for budget, cell in zip(head[1:], cells, strict=True):
            expected = published.get((name, budget))
            assert cell == ("" if expected is None else f"{expected:.2f}"), (name, budget)


def test_the_pages_of_options_have_the_options_rows(measured: Callable[[str], str]) -> None:
    names = re.findall(r"^\| (\w+) \|", measured("life_regression"), flags=re.MULTILINE)
    assert names[:3] == ["life_regression", "life_regression_merging", "life_regression_ours"]
