"""The base install loads, counts and slims; what it leaves out is named, with the command that installs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest
from helpers import base_install
from packaging.requirements import Requirement

from autoslim.core.extras import needs_extra
from autoslim.errors import MissingExtraError

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

MODEL = ("--model", "deit_tiny_patch16_224", "--from-scratch", "--image-size", "24", "--data", "digits", "--flops", "70%")
SMALL = ("--model-args", "patch_size=4,embed_dim=32,depth=2,num_heads=2", "--epochs", "1", "--base-epochs", "1")


def base_commands(output: Path) -> list[list[str]]:
    """Everything that the base install promises."""
    return [
        ["slim", *MODEL, *SMALL, "--method", "vit_slim", "--output", str(output)],
        ["flops", str(output)],
        ["flops", "deit_tiny_patch16_224", "--image-size", "224"],
        ["evaluate", str(output), "--data", "digits"],
        ["visualize", str(output), "--data", "digits", "--images", "2"],
    ]


def run_base(*commands: list[str]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each command."""
    program = [sys.executable, base_install.__file__, *map(json.dumps, commands)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return [tuple(found) for found in json.loads(done.stdout.splitlines()[-1])]


@pytest.mark.slow
def test_the_base_install_slims_counts_evaluates_and_draws(tmp_path):
    for code, _, errors in run_base(*base_commands(tmp_path / "model")):
        assert (code, "Traceback" in errors) == (0, False), errors
    loaded = "import helpers.base_install as base, sys\nbase.hide_extras()\nimport autoslim\nprint(autoslim.load(sys.argv[1]).training)"
    done = subprocess.run([sys.executable, "-c", loaded, tmp_path / "model"], capture_output=True, text=True, cwd=ROOT / "tests")
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


@pytest.mark.slow
def test_a_command_names_the_extra_that_it_needs(tmp_path):
    needed = {
        ("search", *MODEL): "search",
        ("plan", *MODEL): "search",
        ("submit", *MODEL): "client",
        ("jobs",): "client",
        ("mcp",): "mcp",
        ("config", "show"): "client",
        ("serve",): "service",
        ("supervise",): "service",
        ("keys", "list"): "service",
    }
    *found, doctor = run_base(*map(list, needed), ["doctor", "--output", str(tmp_path)])
    for (command, extra), (code, _, errors) in zip(needed.items(), found, strict=True):
        assert code == 2, errors
        (line,) = errors.strip().splitlines()
        assert line.startswith(f"autoslim: autoslim {command[0]}")
        assert line.endswith(f"which is not installed; run: pip install 'autoslim[{extra}]'")
    code, checks, _ = doctor
    assert code == 1
    failed = [line for line in checks.splitlines() if not line.startswith("ok")]
    assert [line.split()[1] for line in failed] == ["store", "ray"]
    assert all("autoslim[search]" in line for line in failed)


def test_the_client_names_its_extra():
    code = (
        "import helpers.base_install as base\nbase.hide_extras()\nimport autoslim, autoslim.errors\n"
        "try:\n    autoslim.Client\nexcept autoslim.errors.MissingExtraError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "tests", timeout=60)
    expected = "autoslim.Client needs the package httpx, which is not installed; run: pip install 'autoslim[client]'\n"
    assert done.stdout == expected, done.stderr


def test_a_missing_module_of_ours_is_no_missing_extra():
    with pytest.raises(ModuleNotFoundError, match=r"autoslim\.nothing"), needs_extra("search", "autoslim search"):
        import autoslim.nothing  # noqa: F401


def test_the_outermost_purpose_is_named():
    with (
        pytest.raises(MissingExtraError, match=r"^autoslim serve needs the package absent, .*autoslim\[service\]"),
        needs_extra("service", "autoslim serve"),
        needs_extra("search", "the store"),
    ):
        import absent  # noqa: F401


def test_all_extras_together_are_all():
    extras = PROJECT["optional-dependencies"]
    (everything,) = map(Requirement, extras["all"])
    assert everything.extras == extras.keys() - {"all", "dev", "docs"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_environment_with_only_the_base_dependencies_slims(tmp_path):
    """Made by pip, with what it takes packages from."""
    venv.create(tmp_path / "environment", with_pip=False)
    python = tmp_path / "environment/bin/python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*pip, "install", "--quiet", ROOT], check=True, env=environment)
    for name in ("ray", "optuna", "mlflow", "sqlalchemy", "fastapi", "httpx"):
        site = sysconfig.get_path("purelib", vars={"base": str(tmp_path / "environment")})
        assert not Path(site, name).exists()
    for command in base_commands(tmp_path / "model"):
        subprocess.run([python, "-m", "autoslim.cli", *command], check=True, cwd=tmp_path, env=environment)
    refused = subprocess.run(
        [python, "-m", "autoslim.cli", "search", *MODEL], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (refused.returncode, "autoslim[search]" in refused.stderr) == (2, True)
