"""What the KubeRay operator adds to the pods of a RayCluster: the command that starts Ray, its environment, and the head's service.

From `ray-operator/controllers/ray/common/pod.go`: a node's parameters are completed from its container's limits, and its command is run by
bash, so that a parameter may be quoted for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from helm.render import RELEASE
from helpers.chart import container_of

HEAD_SERVICE = f"{RELEASE}-head-svc"
GCS_PORT, DASHBOARD_PORT = 6379, 8265
_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "m": 1e-3, "": 1}
_DOMAIN = "default.svc.cluster.local"


def ray_command(group: Mapping[str, Any], *, head: bool) -> list[str]:
    """`group` is the head's or one of the workers' in the RayCluster."""
    limits = container_of(group["template"]["spec"])["resources"]["limits"]
    completed = {"block": "true", "metrics-export-port": "8080", "dashboard-agent-listen-port": "52365"}
    completed |= {"num-cpus": str(math.ceil(_number(limits["cpu"]))), "memory": str(int(_number(limits["memory"])))}
    if "nvidia.com/gpu" in limits:
        completed["num-gpus"] = limits["nvidia.com/gpu"]
    completed |= {"dashboard-host": "0.0.0.0"} if head else {"address": f"{HEAD_SERVICE}.{_DOMAIN}:{GCS_PORT}"}
    completed |= group["rayStartParams"]
    flags = [f"--{name}" if value == "true" else f"--{name}={value}" for name, value in completed.items()]
    return ["/bin/bash", "-c", "--", " ".join(["ulimit -n 65536; ray start", *(["--head"] if head else []), *flags])]


def ray_environment(name: str, *, head: bool, token: str) -> dict[str, str]:
    """`name` is the group's."""
    gcs = f"127.0.0.1:{GCS_PORT}" if head else f"{HEAD_SERVICE}.{_DOMAIN}:{GCS_PORT}"
    return {
        "RAY_CLUSTER_NAME": RELEASE,
        "RAY_NODE_TYPE_NAME": "headgroup" if head else name,
        "RAY_CLOUD_INSTANCE_ID": name,
        "RAY_ADDRESS": gcs,
        "RAY_PORT": str(GCS_PORT),
        "RAY_USAGE_STATS_KUBERAY_IN_USE": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
    }


def dns_names(service: str) -> list[str]:
    """All names that a pod of the same namespace may use."""
    return [service, *(f"{service}.{'.'.join(_DOMAIN.split('.')[:length])}" for length in (1, 2, 4))]


def _number(quantity: str) -> float:
    """Of cores or bytes, as Kubernetes writes them: 500m, 2, 8Gi."""
    number = quantity.rstrip("".join(_UNITS))
    return float(number) * _UNITS[quantity.removeprefix(number)]
