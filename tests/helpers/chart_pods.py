"""The pods of an installation of the Helm chart, as `Pod`s of this machine: what Kubernetes makes of the rendered objects.

One pod of each component and group. Claims are folders, secrets are files or variables, a service's name is the address of its pod.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from helm.render import RELEASE
from helpers.chart import Objects, cluster_of, container_of, pods_of
from helpers.kuberay import HEAD_SERVICE, dns_names, ray_command, ray_environment
from helpers.manifests import image_environment
from helpers.pod import Pod, Volume
from helpers.pod_network import PodNetwork

POSTGRES = """
initdb --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" $POSTGRES_INITDB_ARGS
echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
pg_ctl -w -o "-c listen_addresses=''" start
PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE") createdb --username="$POSTGRES_USER" "$POSTGRES_DB"
pg_ctl -w -m fast stop
exec postgres -c listen_addresses='*'
"""
"""What the entrypoint of the image `postgres` does with an empty folder."""

Secrets = Mapping[str, Mapping[str, str]]
"""Values by the secret's name and the key."""


def make_pods(objects: Objects, secrets: Secrets, network: PodNetwork, folder: Path) -> dict[str, Pod]:
    """`folder` is for what they write. Pods of Ray have the secret's token."""
    cluster = cluster_of(objects)
    groups = {"head": cluster["headGroupSpec"]} | {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    found = {}
    for name, spec in pods_of(objects).items():
        container, namespace_and_address = container_of(spec), network.add()
        environment = _environment(container, secrets)
        if name in groups:
            head = name == "head"
            command = ray_command(groups[name], head=head)
            environment |= ray_environment(name, head=head, token=secrets[RELEASE]["auth_token"])
        else:
            command = container.get("command") or ["sh", "-euc", POSTGRES]
        own = folder / name
        own.mkdir(parents=True)
        volumes = _volumes(spec, container, secrets, claims=folder / "claims", own=own)
        found[name] = Pod(name, spec, command, environment, volumes, *namespace_and_address, own)
    return found


def names_of(objects: Objects, pods: Mapping[str, Pod]) -> dict[str, str]:
    """Addresses by name, as a cluster's DNS has them: a service has its only pod's, since its port is the pod's own."""
    found = {HEAD_SERVICE: pods["head"].address}
    for (kind, name), item in objects.items():
        if kind == "Service":
            pod = pods[name.removeprefix(f"{RELEASE}-")]
            ports = {each["name"]: each["containerPort"] for each in pod.container["ports"]}
            assert all(ports[port["targetPort"]] == port["port"] for port in item["spec"]["ports"]), name
            found[name] = pod.address
    return {alias: address for name, address in found.items() for alias in dns_names(name)}


def _environment(container: Mapping[str, Any], secrets: Secrets) -> dict[str, str]:
    found = image_environment() if container["image"].startswith("autoslim:") else {}
    for entry in container.get("env", ()):
        if "value" in entry:
            found[entry["name"]] = entry["value"]
        else:
            reference = entry["valueFrom"]["secretKeyRef"]
            found[entry["name"]] = secrets[reference["name"]][reference["key"]]
    return found


def _volumes(
    spec: Mapping[str, Any], container: Mapping[str, Any], secrets: Secrets, *, claims: Path, own: Path
) -> Sequence[Volume]:
    group, volumes = spec["securityContext"]["fsGroup"], {volume["name"]: volume for volume in spec.get("volumes", ())}
    found = []
    for mount in container.get("volumeMounts", ()):
        # A StatefulSet has templates of claims in place of volumes.
        volume = volumes.get(mount["name"], {"persistentVolumeClaim": {"claimName": f"{mount['name']}-{RELEASE}-postgres-0"}})
        if "secret" in volume:
            path = own / mount["name"]
            path.mkdir()
            for item in volume["secret"]["items"]:
                file = path / item["path"]
                file.write_text(secrets[volume["secret"]["secretName"]][item["key"]])
                file.chmod(0o440)
                os.chown(file, 0, group)
        else:
            path = claims / volume["persistentVolumeClaim"]["claimName"]
            path.mkdir(parents=True, exist_ok=True)
            # All that `fsGroup` does to an empty volume.
            os.chown(path, 0, group)
            path.chmod(0o2775)
        read_only = mount.get("readOnly", False) or volume.get("persistentVolumeClaim", {}).get("readOnly", False)
        found.append(Volume(path, mount["mountPath"], read_only))
    return found
