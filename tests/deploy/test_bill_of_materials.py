"""What comes along: each direct dependency has a reason, the bill of materials is whole, and every licence was looked at."""

from __future__ import annotations

import fnmatch
import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Any

import bill_of_materials
import pytest
from bill_of_materials import REVIEWED, bill, components, is_allowed, licence_of, problems
from helpers.documents import ROOT
from packaging.requirements import Requirement

PYPROJECT = (ROOT / "pyproject.toml").read_text()


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    return bill()


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
