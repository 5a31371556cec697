"""What comes along: each direct dependency has a reason, the bill of materials is whole, and every licence was looked at."""

from __future__ import annotations

import fnmatch
import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import bill_of_materials
import pytest
from bill_of_materials import REVIEWED, bill, components, is_allowed, licence_of, pinned_versions, problems
from helpers.documents import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYPROJECT = (ROOT / "pyproject.toml").read_text()


CONSTRAINTS = ROOT / "deploy" / "constraints.txt"


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    return bill()


@pytest.fixture(scope="module")
def extras() -> str:
    """The image's, as `make bill-image` names them."""
    (found,) = re.findall(r"^BILL_OF_IMAGE := .* --extras (\S+) ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return str(found)


def of_image(extras: str, constraints: Path = CONSTRAINTS) -> dict[str, Any]:
    found = components(frozenset(extras.split(",")), for_image=True)
    return bill(found, pinned_versions(found, constraints))


def test_every_direct_dependency_has_its_reason_in_a_line() -> None:
    section = PYPROJECT.partition("\ndependencies = [\n")[2].partition("\n[project.scripts]")[0]
    lines = section.splitlines()
    listed = {number: line for number, line in enumerate(lines) if line.startswith('    "')}
    project = tomllib.loads(PYPROJECT)["project"]
    assert len(listed) == len(project["dependencies"]) + sum(
        len(extra) for name, extra in project["optional-dependencies"].items() if name != "all"
    )
    without = [
        line.strip() for number, line in listed.items() if "# " not in line and not lines[number - 1].strip().startswith("# ")
    ]
    assert without == []


def test_the_bill_has_every_dependency_that_is_installed_with_its_version_and_what_it_needs(whole: dict[str, Any]) -> None:
    assert (whole["bomFormat"], whole["specVersion"]) == ("CycloneDX", "1.6")
    versions = {component["name"]: component["version"] for component in whole["components"]}
    direct = [Requirement(text) for text in tomllib.loads(PYPROJECT)["project"]["dependencies"]]
    assert {requirement.name for requirement in direct} <= versions.keys()
    assert all(requirement.specifier.contains(versions[requirement.name], prereleases=True) for requirement in direct)
    references = {component["bom-ref"] for component in (whole["metadata"]["component"], *whole["components"])}
    assert len(references) == len(versions) + 1
    assert {dependency["ref"] for dependency in whole["dependencies"]} == references
    assert {need for dependency in whole["dependencies"] for need in dependency["dependsOn"]} < references
    assert {"sympy", "mpmath"} <= versions.keys(), "what torch needs, and what that needs"


def test_the_bill_has_no_tools_of_development(whole: dict[str, Any]) -> None:
    names = {component["name"] for component in whole["components"]}
    assert not names & {"pytest", "ruff", "mypy", "hypothesis", "mkdocs-material"}


def test_the_bill_of_the_image_has_every_package_that_is_pinned_at_that_version_and_no_other(extras: str) -> None:
    """Read here without the reader that makes the bill."""
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    made = of_image(extras)
    versions = {component["name"]: component["version"] for component in made["components"]}
    assert versions == pins
    assert all(component["purl"].endswith(f"@{pins[component['name']]}") for component in made["components"])
    references = {component["bom-ref"] for component in (made["metadata"]["component"], *made["components"])}
    assert {need for dependency in made["dependencies"] for need in dependency["dependsOn"]} < references


def test_the_bill_of_the_image_is_of_the_packages_that_it_is_built_with(extras: str) -> None:
    lines = (ROOT / "deploy" / "requirements.txt").read_text().splitlines()
    built = {canonicalize_name(Requirement(line).name) for line in lines if line and not line.startswith("#")}
    made = of_image(extras)
    (own,) = [each for each in made["dependencies"] if each["ref"] == made["metadata"]["component"]["bom-ref"]]
    assert {re.sub(r"pkg:pypi/(.*)@.*", r"\1", need) for need in own["dependsOn"]} == built
    others = {component["name"] for component in bill()["components"]} - {component["name"] for component in made["components"]}
    assert {"openvino", "mcp", "datasets"} <= others


def test_the_bill_of_the_image_is_for_the_python_of_the_image(extras: str) -> None:
    (version,) = re.findall(r"^FROM python:(\d+\.\d+)", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE)
    texts = [
        f"now; python_version == '{version}'",
        "never; sys_platform != 'linux' or python_version < '3.12'",
        "gpu; extra == 'gpu'",
    ]
    needed = bill_of_materials._needed(texts, frozenset(), bill_of_materials._IMAGE)
    assert dict(needed) == {"now": frozenset()}


def test_what_another_version_than_the_pinned_one_says_is_marked(extras: str) -> None:
    installed = {name: package.version for name, (package, _) in components().items()}
    with_mark = [component for component in of_image(extras)["components"] if "properties" in component]
    marked = {component["name"]: component["properties"][0]["value"] for component in with_mark}
    pins = bill_of_materials.read_pins(CONSTRAINTS)
    assert marked == {name: installed[name] for name, version in pins.items() if installed[name] != version}


def test_constraints_of_other_packages_are_refused_by_their_names(
    extras: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "constraints.txt"
    other.write_text(re.sub(r"^scipy==.*$", "no-such-package==1.0", CONSTRAINTS.read_text(), flags=re.MULTILINE))
    monkeypatch.setattr(sys, "argv", ["bill_of_materials.py", "--extras", extras, "--constraints", str(other)])
    assert bill_of_materials.main() == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "it lacks scipy, and nothing needs no-such-package of it;" in told.err
    assert "next: make constraints" in told.err


def test_an_extra_that_is_none_is_refused_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bill_of_materials.py", "--extras", "search,serve"])
    with pytest.raises(SystemExit, match="2"):
        bill_of_materials.main()
    assert "there is no extra 'serve'; allowed: all, client," in capsys.readouterr().err


def test_every_licence_is_allowed_or_was_looked_at() -> None:
    assert problems() == []


def needless(reviewed: Iterable[str]) -> list[str]:
    """The patterns of which every package that is here has an allowed licence by its metadata."""
    plain = {name: is_allowed(licence_of(package)) for name, (package, _) in components().items()}
    matched = {pattern: fnmatch.filter(plain, pattern) for pattern in reviewed}
    return [pattern for pattern, names in matched.items() if names and all(plain[name] for name in names)]


def test_what_was_looked_at_still_needs_it() -> None:
    assert needless(REVIEWED) == []
    assert needless(["torch*", "numpy", "psycopg*", "no-such-*"]) == ["torch*", "numpy"]


@pytest.mark.parametrize("absent", ["openvino", "ray", "autoslim"])
def test_a_bill_without_a_direct_dependency_is_refused_by_its_name(
    absent: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without(name: str) -> Distribution:
        if name == absent:
            raise PackageNotFoundError(name)
        return distribution(name)

    monkeypatch.setattr(bill_of_materials, "distribution", without)
    components.cache_clear()
    try:
        for arguments in ([], ["--check"]):
            monkeypatch.setattr(sys, "argv", ["bill_of_materials.py", *arguments])
            assert bill_of_materials.main() == 1
            told = capsys.readouterr()
            assert told.out == ""
            assert re.search(rf"not installed.*: {absent};.*make install", told.err)
    finally:
        components.cache_clear()


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 WITH LLVM-exception AND BSD-3-Clause", True),
        ("Apache Software License", True),
        ("ISC License (ISCL)", True),
        ("LGPL-3.0-only", False),
        ("GPL-3.0-or-later", False),
        ("MIT AND GPL-2.0-only", False),
        ("MIT or GPL 3", False),
        ("GNU Affero General Public License v3", False),
        ("LicenseRef-NVIDIA-Proprietary", False),
        ("", False),
    ],
)
def test_a_licence_is_allowed_as_a_whole(licence: str, allowed: bool) -> None:
    assert is_allowed(licence) is allowed


def test_a_package_without_a_known_licence_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bill_of_materials, "REVIEWED", {})
    assert any(re.match(r"psycopg \S+: LGPL", problem) for problem in problems())
