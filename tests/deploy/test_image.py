"""The image: the Dockerfile, the versions it is built with, and that all manifests name the same one."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from helpers.manifests import DEPLOY, ROOT, instructions
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


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
    assert re.fullmatch(r"python:3\.\d+-slim", base)
    assert base.split(":")[1].removesuffix("-slim") not in ("3.9", "3.10"), "pyproject asks for 3.11"


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
