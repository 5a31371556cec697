"""Screenshots of the documents, all of one `make demo`: the terminal, the report, MLflow and a notebook.

    python benchmarks/pictures.py --run runs/pictures

The demo runs on a pseudo-terminal, with the environment that this script runs in; what it wrote is kept in --run, so that the pictures can
be taken again without it. Needs Chromium, chromedriver (Debian: chromium, chromium-driver) and selenium.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import mlflow_pictures
from browser import Browser
from executed_notebook import notebook_page
from mlflow import MlflowClient
from mlflow_page import server
from recorded_terminal import last_lines, run_on_terminal, running_lines, terminal_page

from autoslim.core.run_folder import RunFolder

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "docs" / "assets"
COLUMNS, ROWS = 110, 26
SECONDS = 1800
LARGEST = 150_000
"""Bytes of a picture, so that the repository stays small."""

PHONE, DESKTOP = (390, 780), (1180, 820)
REPORT = (
    ("wide-light", DESKTOP, "light", "budgets"),
    ("wide-dark", DESKTOP, "dark", "front"),
    ("narrow-light", PHONE, "light", "budgets"),
    ("narrow-dark", PHONE, "dark", "front"),
)
"""Name, size, colours and section of each picture of report.html."""

CELLS = ['from autoslim.api.front import Front\n\nfront = Front.open("search")\nfront', "%matplotlib inline\nfront.plot();"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a folder for the demo and its recording")
    parser.add_argument("--output", type=Path, default=ASSETS)
    parser.add_argument("--port", type=int, default=5078, help="of MLflow's server")
    arguments = parser.parse_args()
    run, output = arguments.run.absolute(), arguments.output.absolute()
    record(run)
    with Browser() as browser:
        for name, page in pages_of_terminal(run).items():
            take_whole(browser, page, output / "terminal" / f"{name}.png")
        take_whole(browser, notebook_page(CELLS, run), output / "notebook.png")
        take_report(browser, written_report(run / "search"), output / "report")
    take_mlflow(run / "search", output / "mlflow", arguments.port)
    too_large = [path.name for path in output.rglob("*.png") if path.stat().st_size > LARGEST]
    if too_large:
        raise SystemExit(f"larger than {LARGEST} bytes: {', '.join(too_large)}")


def record(run: Path) -> None:
    """Runs the demo, unless its recording is there."""
    if (run / "terminal.ansi").is_file():
        return
    run.mkdir(parents=True, exist_ok=True)
    # The environment is set up: `make` need not look at it.
    made = [f"VENV={sys.prefix}", f"--old-file={sys.prefix}/.autoslim-installed", f"DEMO_OUTPUT={run / 'search'}"]
    seen = run_on_terminal(
        ["make", "--no-print-directory", "--directory", str(ROOT), "demo", *made], columns=COLUMNS, rows=ROWS, seconds=SECONDS
    )
    if seen.code:
        raise SystemExit("\n".join(seen.lines[-20:]))
    (run / "terminal.ansi").write_text(portable(seen.raw, run), encoding="utf-8", newline="")


def portable(text: str, run: Path) -> str:
    """As it would read in a new checkout, without the folders of this machine."""
    names = {f"{run}/search": "runs/demo", f"{sys.prefix}/": ".venv/", sys.prefix: ".venv", f"{ROOT}/": "", str(Path.home()): "~"}
    for found, shown in names.items():
        text = text.replace(found, shown)
    return text


def pages_of_terminal(run: Path) -> dict[str, str]:
    """While the search runs, and the end of it."""
    raw = (run / "terminal.ansi").read_bytes().decode()
    shown = {"search": running_lines(raw, columns=COLUMNS, bars=2), "end": last_lines(raw, columns=COLUMNS)}
    return {name: terminal_page(lines[-ROWS:], columns=COLUMNS) for name, lines in shown.items()}


def take_whole(browser: Browser, page: str, file: Path) -> None:
    """A picture as large as the page's content."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        path.write_text(page, encoding="utf-8")
        browser.resize(1600, 1200)
        browser.open(path.as_uri())
        size = browser.run(
            "const box = document.body.getBoundingClientRect(); return [Math.ceil(box.width), Math.ceil(box.height)]"
        )
        browser.resize(*size)
        _save(browser, file)


def written_report(search: Path) -> Path:
    """report.html as the code of now writes it: the recording may be older."""
    subprocess.run([sys.executable, "-m", "autoslim.cli", "report", str(search)], check=True)
    return search / "report.html"


def take_report(browser: Browser, report: Path, folder: Path) -> None:
    for name, size, scheme, section in REPORT:
        browser.resize(*size)
        browser.emulate(prefers_color_scheme=scheme)
        browser.open(report.as_uri())
        browser.run("document.getElementById(arguments[0]).scrollIntoView()", section)
        _save(browser, folder / f"{name}.png")


def take_mlflow(search: Path, folder: Path, port: int) -> None:
    """The pages of the search's own MLflow, as `mlflow_pictures` takes them."""
    with server(search.parent, f"sqlite:///{search}/mlflow.db", None, port) as uri:
        job = RunFolder(search).read_job().id
        parent, children = mlflow_pictures.runs_of(MlflowClient(uri), job)
        for page in mlflow_pictures.pages(uri, job, parent, children):
            with Browser(width=1400, height=950) as browser:
                mlflow_pictures.take_screenshot(browser, page, folder, names={f"file://{search}": "runs/demo"})
            print(folder / f"{page.name}.png", flush=True)


def _save(browser: Browser, file: Path) -> None:
    browser.screenshot(file)
    print(file, flush=True)


if __name__ == "__main__":
    main()
