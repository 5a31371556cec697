"""The manifests of `deploy/` as data."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from helpers.manifests import DEPLOY


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@pytest.fixture(scope="session")
def rayjob() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "kuberay" / "rayjob.yaml").read_text())


@pytest.fixture(scope="session")
def pods(rayjob: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The pod specs of the RayJob by what they are for."""
    spec = rayjob["spec"]
    cluster = spec["rayClusterSpec"]
    return {
        "submitter": spec["submitterPodTemplate"]["spec"],
        "head": cluster["headGroupSpec"]["template"]["spec"],
        **{group["groupName"]: group["template"]["spec"] for group in cluster["workerGroupSpecs"]},
    }
