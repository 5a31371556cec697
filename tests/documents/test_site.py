"""The site builds strictly and offline, and its reference has what the code has."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command_line import COMMANDS
from helpers.documents import ROOT

from autoslim.config import JobSpec
from autoslim.errors import AutoslimError
from autoslim.methods import METHODS, Method
from autoslim.service.settings import RequestLimits, ServiceSettings
from workers.service.settings import DriverSettings

pytest.importorskip("mkdocs")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def words(page: Path) -> str:
    """A page as a reader sees it."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text()))


def section(text: str, title: str, titles: list[str]) -> str:
    """From the last line that is `title` to the next that is another title: the first ones are the table of contents."""
    lines = [line.strip("¶ ") for line in text.splitlines()]
    start = max(place for place, line in enumerate(lines) if line == title)
    end = next((place for place in range(start + 1, len(lines)) if lines[place] in titles), len(lines))
    return "\n".join(lines[start:end])


def test_every_flag_is_in_the_reference(site: Path) -> None:
    page, titles = words(site / "reference" / "cli.html"), [f"autoslim {command}" for command in COMMANDS]
    for name, command in COMMANDS.items():
        text = section(page, f"autoslim {name}", titles)
        for param in command.params:
            for flag in (*param.opts, *param.secondary_opts):
                if flag.startswith("-"):
                    assert re.search(rf"{flag}(?![\w-])", text), f"{name} {flag}"
            if param.envvar:
                assert param.envvar in text, f"{name} {param.envvar}"


def test_every_exit_code_is_in_the_reference(site: Path) -> None:
    def codes(error: type[AutoslimError]) -> set[int]:
        return {error.exit_code}.union(*(codes(child) for child in error.__subclasses__()))

    page = (site / "reference" / "exit-codes.html").read_text()
    told = {int(code) for code in re.findall(r"<tr>\s*<td>(\d+)</td>", page)}
    assert told == codes(AutoslimError) | {0, 130}


def test_every_field_of_a_job_is_in_the_reference(site: Path) -> None:
    page = (site / "reference" / "job-spec.html").read_text()
    assert [name for name in JobSpec.model_fields if f"<td><code>{name}</code></td>" not in page] == []


def test_every_setting_of_service_and_drivers_is_described_where_they_are_operated(site: Path) -> None:
    page = (site / "service" / "operate.html").read_text()
    for model in (ServiceSettings, RequestLimits, DriverSettings):
        for name, field in model.model_fields.items():
            assert re.fullmatch(r"[A-Z].*\.", field.description or ""), f"{model.__name__}.{name}"
            assert f"<td><code>{name}</code></td>" in page, f"{model.__name__}.{name}"


def test_every_knob_is_on_its_methods_page(site: Path) -> None:
    for name, method in METHODS.items():
        page = (site / "methods" / f"{name}.html").read_text()
        assert [knob for knob in method.ranges if f"<td><code>{knob}</code></td>" not in page] == [], name


def test_every_member_of_a_method_is_explained_once(site: Path) -> None:
    page = (site / "developing" / "add-a-method.html").read_text()
    members = [name for name in (*vars(Method), *Method.__annotations__) if not name.startswith("_")]
    assert [name for name in members if page.count(f"<td><code>{name}</code></td>") != 1] == []


def test_no_marker_is_left_and_nothing_is_fetched(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert "<!-- made from" not in text, page
        fetched = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"?(?:https?:)?//[^\s\">]+", text)
        assert fetched == [], page
