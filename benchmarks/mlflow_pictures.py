"""Screenshots of a search in MLflow, in the order of the documentation's review page.

    python benchmarks/mlflow_pictures.py --tracking-uri http://127.0.0.1:8401 --job JOB [--output DIR]

Needs the search's MLflow server (`make cluster` starts one), Chromium and selenium.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path

from browser import Browser
from mlflow import MlflowClient
from mlflow.entities import Run

FOLDER = Path(__file__).parents[1] / "docs" / "assets" / "mlflow"
COLUMNS = {
    "Dataset": False,
    "Source": False,
    "Models": False,
    "val_accuracy": True,
    "gflops": True,
    "mparams": True,
    "selected_for": True,
}
"""Columns of the table of runs that are switched on (True) or off, relative to MLflow's default."""

_CLOSE = 'document.querySelectorAll(\'[aria-label="Close"], [aria-label="close"]\').forEach(button => button.click())'
_RENAME = """
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode())
  for (const [found, shown] of Object.entries(arguments[0]))
    if (walker.currentNode.data.includes(found))
      walker.currentNode.data = walker.currentNode.data.replaceAll(found, shown);
"""
_DRAWN = "document.querySelectorAll('circle, path, img, svg, canvas').length > 0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """`ready` is the JavaScript condition that the page is loaded; `then` runs before the screenshot."""

    name: str
    url: str
    ready: str
    in_frame: bool = False
    then: Callable[[Browser], None] = lambda browser: None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracking-uri", required=True, help="a server's address, as a browser can open it")
    parser.add_argument("--job", required=True)
    parser.add_argument("--output", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    client = MlflowClient(arguments.tracking_uri)
    parent, children = runs_of(client, arguments.job)
    for page in pages(arguments.tracking_uri, arguments.job, parent, children):
        with Browser(width=1400, height=950) as browser:
            take_screenshot(browser, page, arguments.output)
        print(f"{page.name}.png  {page.url}", flush=True)


def take_screenshot(browser: Browser, page: Page, output: Path, names: Mapping[str, str] | None = None) -> None:
    """`names` has what is shown instead of texts on the page, such as folders of this machine."""
    browser.open(page.url)
    browser.wait(page.ready, in_frame=page.in_frame)
    # MLflow's assistant opens a moment after the page and would cover it.
    time.sleep(1.5)
    browser.run(_CLOSE)
    page.then(browser)
    time.sleep(1.5)
    browser.run(_RENAME, dict(names or {}))
    browser.screenshot(output / f"{page.name}.png")


def runs_of(client: MlflowClient, job: str) -> tuple[Run, list[Run]]:
    experiment = client.get_experiment_by_name("autoslim")
    assert experiment is not None, "no search was logged there"
    found = client.search_runs([experiment.experiment_id], f"tags.job = '{job}'", max_results=1000)
    parents = [run for run in found if run.data.tags["autoslim.entity"] == "job"]
    assert parents, f"no search {job!r} was logged there"
    return parents[0], [run for run in found if run not in parents]


def pages(uri: str, job: str, parent: Run, children: list[Run]) -> list[Page]:
    """In the order of the review page."""
    experiment = f"{uri}/#/experiments/{parent.info.experiment_id}"
    run = f"{experiment}/runs/{parent.info.run_id}"
    # The setting "Model training" above the menu.
    kind = "workflowType=machine_learning"
    front = urllib.parse.quote(f"tags.job = '{job}' and tags.pareto = 'true'")
    ordered = "orderByKey=metrics.%60val_accuracy%60&orderByAsc=false"
    chosen = next(child for child in children if child.data.tags.get("selected_for"))
    picture = f"{experiment}/runs/{chosen.info.run_id}/artifacts/picture.html"
    return [
        Page(name="1-parent", url=f"{run}?{kind}", ready=_text("Pareto front"), then=_show_more),
        Page(name="2-front", url=f"{run}/artifacts/front.html?{kind}", ready=_DRAWN, in_frame=True),
        Page(
            name="3-candidates",
            url=f"{experiment}/runs?searchFilter={front}&{ordered}&{kind}",
            ready=_text("matching run"),
            then=_choose_columns,
        ),
        Page(name="4-trial", url=f"{picture}?{kind}", ready=_DRAWN, in_frame=True),
        Page(name="5-registry", url=f"{uri}/#/models/{urllib.parse.quote(job)}?{kind}", ready=_text("pct")),
    ]


def _show_more(browser: Browser) -> None:
    browser.run("[...document.querySelectorAll('button')].find(button => button.innerText.trim() === 'Show more')?.click()")


def _choose_columns(browser: Browser) -> None:
    browser.click("//button[contains(., 'Columns')]")
    time.sleep(1)
    for name, shown in COLUMNS.items():
        browser.type("//input[@placeholder='Search columns']", name)
        time.sleep(0.7)
        row = f"//*[contains(@class, 'treenode') and normalize-space(.) = '{name}']"
        ticked = browser.run(
            "return document.evaluate(arguments[0], document, null, 9, null).singleNodeValue.innerHTML.includes('checkbox-checked')",
            row,
        )
        if ticked != shown:
            browser.click(f"{row}//*[contains(@class, 'tree-checkbox')]")
            time.sleep(0.4)
    browser.escape()


def _text(text: str) -> str:
    return f"document.body.innerText.includes({text!r})"


if __name__ == "__main__":
    main()
