"""`helm template | validate` without a cluster and offline: `PYTHONPATH=deploy python -m helm.validate`.

Renders the chart with its defaults and with each of its files of values, and holds every object against the schemas: Kubernetes' own,
strictly, and for a RayCluster the one of the fields that we use (`deploy/kuberay/rayjob.schema.json`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from helm.render import CHART, PLAIN, render

KUBERNETES = ("1.27", "1.32")
"""The oldest that Chart.yaml names, and a newer one."""

SCENARIOS: dict[str, dict[str, Any]] = {
    "default": {},
    **{path.stem.removeprefix("values-"): yaml.safe_load(path.read_text()) for path in sorted(CHART.glob("values-*.yaml"))},
}
"""Values by the name of their file."""


def validate(item: Mapping[str, Any]) -> None:
    """Raises ValidationError, of `kubernetes_validate` or `jsonschema`, for a field that there is not, or one of another type."""
    if item["kind"] == "RayCluster":
        definitions = json.loads((PLAIN / "rayjob.schema.json").read_text())["$defs"]
        schema = {"$ref": "#/$defs/cluster", "$defs": definitions}
        jsonschema.validate(item["spec"], schema, cls=jsonschema.Draft202012Validator)
        return
    for version in KUBERNETES:
        kubernetes_validate.validate(item, version, strict=True)


def lines() -> Iterator[str]:
    """What was validated, a line for each file of values."""
    for name, values in SCENARIOS.items():
        items = [item for text in render(values).values() for item in yaml.safe_load_all(text)]
        for item in items:
            validate(item)
        kinds = sorted({item["kind"] for item in items})
        yield f"{name}: {len(items)} objects are valid for Kubernetes {' and '.join(KUBERNETES)}: {', '.join(kinds)}"


if __name__ == "__main__":
    for line in lines():
        print(line)
