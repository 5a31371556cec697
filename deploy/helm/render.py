"""Writes `deploy/kuberay/service.yaml`, `storage.yaml` and `mlflow.yaml` from the chart: `python deploy/helm/render.py`.

`rayjob.yaml` beside them is written by hand: it is one search, whose command, data and workers its user edits before each start, while the
chart is a service that stays. Of what they share, the tests hold it to the chart's rules.

helm_python is Helm's own engine as a library, so that no `helm` command is needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import helm_python
import yaml

CHART = Path(__file__).parent / "autoslim"
PLAIN = Path(__file__).parents[1] / "kuberay"
RELEASE = "autoslim"
_HEADER = "# Made from deploy/helm/autoslim and its default values by `make manifests`, for use without Helm.\n"
_MLFLOW_HEADER = """\
# Made from deploy/helm/autoslim by `make manifests`: its MLflow server alone, for the search of rayjob.yaml, whose entrypoint then gets
#   --tracking-uri http://autoslim-mlflow:5000
"""
# The driver of rayjob.yaml, which logs the runs, is on a worker. KubeRay sets the label of the node's type.
_SEARCH = {"app.kubernetes.io/instance": "autoslim-search", "ray.io/node-type": "worker"}


def render(values: Mapping[str, Any], *, release: str = RELEASE) -> dict[str, str]:
    """The documents of each template, by its file's name; templates that give none are left out.

    Raises:
        helm_python.HelmError: for values that the chart's schema or a template refuses.
    """
    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(dict(values))
        texts = chart.render(dict(values), name=release, namespace="default")
    found = {Path(path).name: documents(text) for path, text in sorted(texts.items()) if path.endswith(".yaml")}
    return {name: text for name, text in found.items() if text}


def documents(text: str) -> str:
    """A YAML stream without its empty documents."""
    parts = [part.strip("\n") for part in re.split(r"^---$", text, flags=re.MULTILINE)]
    return "\n---\n".join(part for part in parts if yaml.safe_load(part) is not None)


def plain_manifests() -> dict[Path, str]:
    """The files of PLAIN and their texts."""
    rendered = render({})
    storage = rendered.pop("storage.yaml")
    return {
        PLAIN / "storage.yaml": f"{_HEADER}{storage}\n",
        PLAIN / "service.yaml": _HEADER + "\n---\n".join(rendered.values()) + "\n",
        PLAIN / "mlflow.yaml": f"{_MLFLOW_HEADER}{_mlflow()}\n",
    }


def _mlflow() -> str:
    """The server with its volume, its service and its policy."""
    rendered = render({"network": {"mlflowFrom": [{"podSelector": {"matchLabels": _SEARCH}}]}})
    policies = rendered["network-policies.yaml"].split("\n---\n")
    (policy,) = (text for text in policies if yaml.safe_load(text)["metadata"]["name"] == f"{RELEASE}-mlflow")
    return f"{rendered['mlflow.yaml']}\n---\n{policy}"


if __name__ == "__main__":
    for path, text in plain_manifests().items():
        path.write_text(text)
