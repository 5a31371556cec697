"""The measurements of the code, on files whose numbers can be counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import code_metrics


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {
        "autoslim/__init__.py": "",
        "autoslim/one/__init__.py": "",
        "autoslim/one/a.py": "# why\nfrom autoslim.two import b\n\n\ndef short():\n    return b.final_share\n",
        "autoslim/two/__init__.py": "",
        "autoslim/two/b.py": 'final_share = 0.1\n\n\ndef long():\n    """Doc."""\n    # why\n    return 1\n',
        "autoslim/two/data.json": "{}",
        "autoslim/py.typed": "",
        "autoslim/notes/README": "",
        "autoslim/methods/__init__.py": "# why\nx = 1\n",
        "autoslim/search/__init__.py": "x = 1\n",
        "workers/__init__.py": "",
        "docs/developing/one-budget.md": "`autoslim/one/a.py`, `autoslim/one/a.py`, `autoslim/two/b.py`, `autoslim/one/a.py`\n",
        "README.md": "# autoslim\n\nthree more words\n",
        "tests/test_b.py": "final_share = 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_every_row_is_what_counting_by_hand_gives(tree: Path):
    assert code_metrics.measure(tree) == {
        "function length, median / p90 / longest": "3 / 4 / 4",
        "file length, median / p90 / longest": "0.5 / 7 / 7",
        "`#` comments per 100 lines": "18.8",
        "the same in `autoslim/methods/`": "50.0",
        "the same in `autoslim/search/`": "0.0",
        "entries at the top of `autoslim/`": "5",
        "README lines / words": "3 / 5",
        "rooms / arrows between them": "6 / 1",
        "import circle": "none",
        "files that name the setting `final_share`": "2",
        "walk of one budget, files / returns": "2 / 1",
    }


def test_a_circle_is_named(tree: Path):
    (tree / "autoslim/two/b.py").write_text("from autoslim.one import a\n")
    circle = code_metrics.import_graph(tree).circle.split(" → ")
    assert set(circle) == {"autoslim.one.a", "autoslim.two.b"}
    assert circle[0] == circle[-1]
