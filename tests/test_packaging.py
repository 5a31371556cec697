"""The package is found from any folder, and shows what it offers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import autoslim

ROOT = Path(__file__).parents[1]
PACKAGES = ("autoslim", "workers", "search_spaces")


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """The sources in a folder called as the README's clone is, installed editable into an environment of their own."""
    folder = tmp_path_factory.mktemp("holds-the-clone") / "autoslim"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    environment = folder.parent / "environment"
    venv.create(environment, with_pip=False)
    # The dependencies and setuptools are those of the environment that runs the tests; its own editable install is not followed.
    site = sysconfig.get_path("purelib", vars={"base": str(environment)})
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", environment / "bin/python")
    run(*pip, "install", "--no-index", "--no-deps", "--no-build-isolation", "--editable", folder, cwd=folder.parent)
    return folder


@pytest.mark.slow
@pytest.mark.short
@pytest.mark.parametrize("place", [".", "..", "/"])
def test_the_clone_is_imported_from_any_folder(checkout, place):
    code = "import autoslim, workers, search_spaces; print('load' in dir(autoslim), autoslim.__file__)"
    printed = run(checkout.parent / "environment/bin/python", "-c", code, cwd=checkout / place)
    assert printed == f"True {checkout / 'autoslim' / '__init__.py'}"


@pytest.mark.slow
def test_public_names_are_there_in_the_folder_that_holds_the_clone(checkout):
    assert run(checkout.parent / "environment/bin/python", "-c", "import autoslim; autoslim.load", cwd=checkout.parent) == ""


@pytest.mark.slow
@pytest.mark.short
@pytest.mark.parametrize("command", [["environment/bin/autoslim"], ["environment/bin/python", "-m", "autoslim.cli"]])
def test_the_command_runs_in_the_folder_that_holds_the_clone(checkout, command):
    program, *rest = command
    assert "search" in run(checkout.parent / program, *rest, "--help", cwd=checkout.parent)


def test_the_public_names_are_listed_and_each_is_there():
    assert dir(autoslim) == sorted(autoslim.__all__)
    for name in autoslim.__all__:
        assert getattr(autoslim, name).__name__ == name


@pytest.mark.slow
def test_public_names_are_loaded_when_they_are_used():
    code = "import sys, autoslim; dir(autoslim); print({'torch', 'httpx'} & set(sys.modules)); autoslim.load; print('torch' in sys.modules)"
    assert run(sys.executable, "-c", code, cwd=ROOT).splitlines() == ["set()", "True"]


def test_a_name_that_is_not_public_is_no_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'slimm'"):
        autoslim.slimm  # noqa: B018
