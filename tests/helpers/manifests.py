"""Where the manifests and the Dockerfile lie, what is in the image, and what holds for every pod."""

import shlex
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's, each with its argument, comments left out and continued lines joined."""
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(name, argument) for name, _, argument in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def image_environment() -> dict[str, str]:
    """The variables that the image sets."""
    words = [word for name, argument in instructions() if name == "ENV" for word in shlex.split(argument)]
    return {name: value for name, _, value in (word.partition("=") for word in words)}


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
