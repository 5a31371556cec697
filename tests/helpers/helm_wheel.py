"""Helm's engine, which the extra `dev` brings where it has a wheel: there, that it is missing is an error and no reason to skip."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

_PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def skip_without_wheel() -> None:
    """Skips the tests of the module on a machine for which pyproject.toml does not ask for it, unless it was installed all the same."""
    requirements = map(Requirement, _PROJECT["optional-dependencies"]["dev"])
    (engine,) = (requirement for requirement in requirements if requirement.name == "helm-python-sdk")
    assert engine.marker is not None
    if not engine.marker.evaluate():
        pytest.importorskip("helm_python", reason="helm-python-sdk has no wheel for this machine")
