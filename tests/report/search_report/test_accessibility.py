"""axe-core finds nothing to complain of in the report, in a headless Chromium; skipped where either is missing.

Needs chromium and chromedriver, selenium, and the path of axe-core's `axe.min.js` in AXE_SCRIPT (`npm install axe-core`).
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

AXE = os.environ.get("AXE_SCRIPT", "")

pytest.importorskip("selenium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("chromium") and shutil.which("chromedriver")), reason="chromium is missing"),
    pytest.mark.skipif(not Path(AXE).is_file(), reason="AXE_SCRIPT does not name axe.min.js"),
]


@pytest.fixture(params=[(390, 844), (1280, 900)], ids=["phone", "desktop"])
def browser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parents[3] / "benchmarks")])
    from browser import Browser

    width, height = request.param
    with Browser() as opened:
        # The page's own size: a window cannot be as narrow as a phone.
        opened.resize(width, height)
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Any, report: str, tmp_path: Path, scheme: str) -> None:
    # axe itself is a script that the page's policy would refuse: the policy is tested elsewhere.
    policy = report[report.index('<meta http-equiv="Content-Security-Policy"') :].split(">", 1)[0] + ">"
    page = tmp_path / "report.html"
    page.write_text(report.replace(policy, ""), encoding="utf-8")
    browser.emulate(prefers_color_scheme=scheme)
    browser.open(page.as_uri())
    found = browser.run_async(f"{Path(AXE).read_text()}; axe.run().then(arguments[arguments.length - 1]);")
    assert [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found["violations"]] == []
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways as a whole"


def test_the_keyboard_walks_along_the_points(browser: Any, report: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(report, encoding="utf-8")
    browser.open(page.as_uri())
    browser.run("document.querySelector('.point[tabindex=\"0\"]').focus()")
    shown = browser.run("return document.getElementById('tip').innerText")
    assert shown.startswith("Trial ")
    head = "table.trials thead th"
    browser.run(f"document.querySelector('{head} button').click()")
    assert browser.run(f"return document.querySelector('{head}').getAttribute('aria-sort')") == "ascending"
