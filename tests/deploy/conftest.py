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
def rayjob_objects() -> dict[str, dict[str, Any]]:
    """What is in rayjob.yaml, by kind."""
    items = list(yaml.safe_load_all((DEPLOY / "kuberay" / "rayjob.yaml").read_text()))
    found = {item["kind"]: item for item in items}
    assert len(found) == len(items)
    return found


@pytest.fixture(scope="session")
def rayjob(rayjob_objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return rayjob_objects["RayJob"]


@pytest.fixture(scope="session")
def pod_templates(rayjob: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Those of the RayJob by what they are for."""
    spec = rayjob["spec"]
    cluster = spec["rayClusterSpec"]
    return {
        "submitter": spec["submitterPodTemplate"],
        "head": cluster["headGroupSpec"]["template"],
        **{group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]},
    }


@pytest.fixture(scope="session")
def pods(pod_templates: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The pod specs of the RayJob by what they are for."""
    return {name: template["spec"] for name, template in pod_templates.items()}
