"""hadolint, shellcheck and yamllint find nothing, and find something where there is something."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from helpers.manifests import DEPLOY, ROOT

SCRIPTS = (DEPLOY / "slurm" / "search.sbatch", ROOT / ".ci" / "run")


def run(tool: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    binary = shutil.which(tool, path=str(Path(sys.executable).parent)) or shutil.which(tool)
    assert binary is not None, f"{tool} is missing, which the extra `dev` brings; run: make install"
    return subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=60, cwd=ROOT)


def assert_finds_nothing(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint(tmp_path: Path):
    assert_finds_nothing(run("hadolint", DEPLOY / "Dockerfile"))
    (tmp_path / "Dockerfile").write_text("FROM python:latest\n")
    assert "DL3007" in run("hadolint", tmp_path / "Dockerfile").stdout


def test_shellcheck(tmp_path: Path):
    assert_finds_nothing(run("shellcheck", *SCRIPTS))
    (tmp_path / "bad.sh").write_text("#!/bin/sh\nrm $1/*\n")
    assert "SC2086" in run("shellcheck", tmp_path / "bad.sh").stdout


def test_yamllint(tmp_path: Path):
    assert_finds_nothing(run("yamllint", "--strict", "deploy", ".pre-commit-config.yaml", "search_spaces"))
    (tmp_path / "bad.yaml").write_text("a: 1\na: 2\n")
    assert "duplication of key" in run("yamllint", "--strict", tmp_path / "bad.yaml").stdout
