"""Where the manifests lie, and what holds for every pod in them."""

from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def assert_limited_and_unprivileged(name: str, pod: dict[str, Any], *, token: bool = False) -> None:
    """`token`: whether its containers may talk to Kubernetes."""
    assert pod["securityContext"]["runAsNonRoot"] is True, name
    assert pod["securityContext"]["runAsUser"] > 0, name
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
    assert pod["automountServiceAccountToken"] is token, name
    assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}, name
    assert not [volume for volume in pod.get("volumes", ()) if "hostPath" in volume], name
    for container in pod["containers"]:
        assert container["resources"]["limits"].keys() >= {"cpu", "memory"}, name
        assert not [port for port in container.get("ports", ()) if "hostPort" in port], name
        assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
