"""The image: the Dockerfile, the versions it is built with, and that all manifests name the same one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from helpers.manifests import DEPLOY, ROOT, instructions
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, BUILD_SYSTEM = PYPROJECT["project"], PYPROJECT["build-system"]


def pinned(name: str = "requirements.txt") -> dict[str, Requirement]:
    lines = (DEPLOY / name).read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {requirement.name: requirement for requirement in found}


def version_of(requirement: Requirement) -> str:
    (specifier,) = requirement.specifier
    assert specifier.operator == "==", requirement
    return specifier.version


def test_the_image_does_not_run_as_root():
    users = [argument for name, argument in instructions() if name == "USER"]
    assert users
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])


def test_the_base_image_has_a_version():
    (base,) = (argument for name, argument in instructions() if name == "FROM")
    found = re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim", base)
    assert found, f"{base} moves: a version has three numbers"
    assert found[1] in re.findall(r"--python-version (\S+)", (ROOT / "Makefile").read_text()), (
        "`make constraints` is for another Python"
    )
    assert SpecifierSet(PROJECT["requires-python"]).contains(found[1])


def test_whatever_is_built_is_built_with_the_setuptools_that_is_pinned():
    """In isolation pip would fetch the newest one, whatever the constraints say."""
    commands = [words.split() for name, argument in instructions() if name == "RUN" for words in argument.split("&&")]
    installs = [words[words.index("pip") :] for words in commands if {"pip", "install"} <= set(words) and "uv" not in words]
    pinned_first, *builds = [words for words in installs if not any(word.startswith("uv==") for word in words)]
    assert pinned_first[-1] == "setuptools"
    assert "--constraint" in pinned_first
    assert len(builds) == 2
    assert all("--no-build-isolation" in words for words in builds)
    (version,) = pinned("constraints.txt")["setuptools"].specifier
    for needed in map(Requirement, BUILD_SYSTEM["requires"]):
        assert needed.name == "setuptools"
        assert needed.specifier.contains(version.version)


def test_nothing_is_fetched_from_an_address_and_no_secret_is_built_in():
    text = (DEPLOY / "Dockerfile").read_text()
    assert not [argument for name, argument in instructions() if name == "ADD"]
    assert "://" not in text
    for name, argument in instructions():
        assert not (name in ("ENV", "ARG") and re.search(r"TOKEN=|PASSWORD|SECRET", argument)), argument


def test_all_that_is_copied_exists_and_is_let_through_to_the_build():
    let_through = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    sources = [source for name, argument in instructions() if name == "COPY" for source in argument.split()[:-1]]
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source in let_through, source
    assert set(let_through) == set(sources)


def test_every_dependency_is_built_at_one_version_within_its_range():
    everything = PROJECT["dependencies"] + [
        line for name in ("search", "service", "client") for line in PROJECT["optional-dependencies"][name]
    ]
    wanted = {r.name: r for r in map(Requirement, everything) if r.name != PROJECT["name"]}
    found = pinned()
    assert found.keys() == wanted.keys()
    for name, requirement in wanted.items():
        assert requirement.specifier.contains(version_of(found[name])), name
        assert found[name].extras == requirement.extras, name


def test_the_constraints_pin_what_the_requirements_bring_and_agree_with_them():
    """`make constraints` writes them anew. pip calls a package by any spelling of its name."""
    constraints = {canonicalize_name(name): version_of(requirement) for name, requirement in pinned("constraints.txt").items()}
    for name, requirement in pinned().items():
        assert constraints[canonicalize_name(name)] == version_of(requirement), name
    assert len(constraints) > 2 * len(pinned())
    (install,) = (argument for name, argument in instructions() if name == "RUN" and "--requirement" in argument)
    assert "--constraint /src/deploy/constraints.txt" in install


def run_install(device: str, folder: Path) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """The image's installation with stand-ins for pip and uv, and the lines that they were called with."""
    (install,) = (argument for name, argument in instructions() if name == "RUN" and "--requirement" in argument)
    record = folder / "calls"
    record.touch()
    for name in ("pip", "uv"):
        (folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >> "{record}"\n')
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "DEVICE": device}
    script = re.sub(r"^(--mount=\S+\s+)+", "", install)
    done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    return done, record.read_text().splitlines()


def test_for_gpus_pip_installs_all(tmp_path: Path):
    assert [argument for name, argument in instructions() if name == "ARG"] == ["DEVICE=cuda"]
    done, calls = run_install("cuda", tmp_path)
    assert done.returncode == 0, done.stderr
    assert [call.split()[:2] for call in calls] == [["pip", "install"]] * 2


def test_for_cpus_torch_is_there_before_the_rest_at_the_versions_that_are_pinned_and_uv_does_not_stay(tmp_path: Path):
    done, calls = run_install("cpu", tmp_path)
    assert done.returncode == 0, done.stderr
    get, torch, remove, build_tools, rest = calls
    (uv,) = (Requirement(word) for word in get.split() if word.startswith("uv"))
    (wanted,) = (r for r in map(Requirement, PROJECT["optional-dependencies"]["dev"]) if r.name == "uv")
    assert wanted.specifier.contains(version_of(uv))
    assert re.search(
        r"^uv pip install --system .*--torch-backend cpu --constraint /src/deploy/constraints.txt torch torchvision$", torch
    )
    assert remove == "pip uninstall --yes uv"
    assert build_tools.endswith(" setuptools")
    assert rest.startswith("pip install ")
    assert "--requirement /src/deploy/requirements.txt" in rest


def test_uv_takes_the_flags_that_it_is_given(tmp_path: Path):
    _, (_, torch, *_) = run_install("cpu", tmp_path)
    _, *arguments = torch.replace("/src/", f"{ROOT}/").split()
    uv = Path(sys.executable).with_name("uv")
    # It reads them all before it looks for packages, of which it finds none.
    done = subprocess.run([uv, *arguments, "--dry-run", "--offline"], capture_output=True, text=True, timeout=60)
    assert "unexpected argument" not in done.stderr and "invalid value" not in done.stderr, done.stderr


@pytest.mark.parametrize("device", ["", "gpu", "CPU"])
def test_another_device_is_refused_with_what_is_allowed(device: str, tmp_path: Path):
    done, calls = run_install(device, tmp_path)
    assert (done.returncode, calls) == (2, [])
    assert f"DEVICE is '{device}'; allowed: cuda, cpu" in done.stderr


def test_the_page_has_the_command_for_each_device():
    page = (ROOT / "docs" / "service" / "deploy.md").read_text()
    built = re.findall(
        r"^docker build --file deploy/Dockerfile --build-arg DEVICE=(\w+) --tag \S+ \.(?:  |$)", page, flags=re.MULTILINE
    )
    assert built == ["cuda", "cpu"]


def test_all_manifests_name_one_image_of_this_version_and_this_ray(
    compose: dict[str, Any], rayjob: dict[str, Any], pods: dict[str, dict[str, Any]]
):
    ray = version_of(pinned()["ray"])
    image = f"autoslim:{PROJECT['version']}-ray{ray}"
    assert {service["image"] for name, service in compose["services"].items() if name != "postgres"} == {image}
    assert re.fullmatch(r"postgres:\d+\.\d+", compose["services"]["postgres"]["image"])
    assert {container["image"] for pod in pods.values() for container in pod["containers"]} == {image}
    assert rayjob["spec"]["rayClusterSpec"]["rayVersion"] == ray
    for path in (DEPLOY / "Dockerfile", DEPLOY.parent / "docs" / "service" / "deploy.md"):
        assert set(re.findall(r"autoslim:\d[\w.-]*", path.read_text())) == {image}, path
