"""The objects of the Helm chart for given values, and the pods in them. It needs helm-python-sdk."""

from __future__ import annotations

from typing import Any

import yaml
from helm.render import RELEASE, render
from helm.validate import SCENARIOS

Objects = dict[tuple[str, str], dict[str, Any]]
"""By kind and name."""

OVERLAYS = {name: values for name, values in SCENARIOS.items() if name != "default"}


def objects_of(values: dict[str, Any], release: str = RELEASE) -> Objects:
    items = [item for text in render(values, release=release).values() for item in yaml.safe_load_all(text)]
    found = {(item["kind"], item["metadata"]["name"]): item for item in items}
    assert len(found) == len(items)
    return found


def cluster_of(objects: Objects) -> dict[str, Any]:
    return objects["RayCluster", RELEASE]["spec"]


def pods_of(objects: Objects) -> dict[str, dict[str, Any]]:
    """The pod specs: of Ray by group, the others by component."""
    cluster = cluster_of(objects)
    workloads = {name: item for (kind, name), item in objects.items() if kind in ("Deployment", "StatefulSet")}
    return {
        "head": cluster["headGroupSpec"]["template"]["spec"],
        **{group["groupName"]: group["template"]["spec"] for group in cluster["workerGroupSpecs"]},
        **{name.removeprefix(f"{RELEASE}-"): item["spec"]["template"]["spec"] for name, item in workloads.items()},
    }


def container_of(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["containers"]
    return container
