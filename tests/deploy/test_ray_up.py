"""The cluster for Ray's own launcher: Ray's schema, and its launcher and installer with stand-ins for AWS, ssh and the nodes' programs."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from helpers.manifests import DEPLOY, ROOT, image_environment
from packaging.requirements import Requirement
from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_NODE_STATUS

from workers.service.executor import RESOURCE

HEAD, WORKER = "10.0.0.1", "10.0.0.2"

# A node is a home folder. `bash --login` sets PATH anew, for which its profile puts the stand-ins first.
SSH = """#!/bin/bash
while [[ "$1" != *@* ]]; do shift; done
export HOME="$NODES/${1#*@}" NODE="${1#*@}"; shift
# Ray asks for interactive shells, which would take the terminal of the tests.
cd && exec setsid --wait bash -c "$*"
"""
RSYNC = """#!/bin/bash
source="${@: -2:1}"; target="${@: -1}"; at="${target%%:*}"; path="${target#*:}"
[ -d "$NODES/${at#*@}" ] && cp -p "$source" "$NODES/${at#*@}/${path#\\~/}"
"""
RECORDED = """#!/bin/bash
echo "$(basename "$0") $*" >> "$HOME/calls"
"""
RAY = """#!/bin/bash
echo "ray $* auth=$RAY_AUTH_MODE usage=$RAY_USAGE_STATS_ENABLED head=$RAY_HEAD_IP token=$(stat -c %a ~/.ray/auth_token)" >> "$HOME/calls"
"""
PYTHON = """#!/bin/bash
mkdir -p "$3/bin" && ln -sf "$STAND_INS/recorded" "$3/bin/pip" && ln -sf "$STAND_INS/ray" "$3/bin/ray"
"""
STAND_INS = {"ssh": SSH, "rsync": RSYNC, "recorded": RECORDED, "sudo": RECORDED, "cloud-init": RECORDED, "python3.12": PYTHON}


class Machines(NodeProvider):
    """Machines that are there. Ray's own provider for AWS would ask AWS."""

    def __init__(self) -> None:
        super().__init__({}, "autoslim")
        self.tags: dict[str, dict[str, str]] = {}

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> None:
        assert (node_config["ImageId"][:4], count) == ("ami-", 1)
        self.tags[HEAD if tags[TAG_RAY_NODE_KIND] == "head" else WORKER] = dict(tags)

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        return [node for node, tags in self.tags.items() if tag_filters.items() <= tags.items()]

    def is_terminated(self, node_id: str) -> bool:
        return False

    def node_tags(self, node_id: str) -> dict[str, str]:
        return dict(self.tags[node_id])

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        self.tags[node_id].update(tags)

    def external_ip(self, node_id: str) -> str:
        return node_id

    def internal_ip(self, node_id: str) -> str:
        return node_id


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "ray-up" / "cluster.yaml").read_text())


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the nodes' homes; the launcher finds a checkout with a wheel, and a home of its own with a token."""
    programs, homes, mine, checkout = (tmp_path / name for name in ("programs", "nodes", "mine", "checkout"))
    programs.mkdir()
    for name, text in STAND_INS.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    # Only the environment has it.
    (programs / "ray").write_text(RAY)
    (programs / "ray").chmod(0o755)
    for node in (HEAD, WORKER):
        (homes / node).mkdir(parents=True)
        (homes / node / ".bash_profile").write_text(f'PATH="{programs}:$PATH"\n')
        (homes / node / ".bashrc").touch()
    (mine / ".ray").mkdir(parents=True)
    (mine / ".ray" / "auth_token").write_text("0" * 64)
    (checkout / "dist").mkdir(parents=True)
    version = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)[0]
    (checkout / "dist" / f"autoslim-{version}-py3-none-any.whl").touch()
    (checkout / "deploy").mkdir()
    for name in ("requirements.txt", "constraints.txt"):
        shutil.copy(DEPLOY / name, checkout / "deploy" / name)
    monkeypatch.chdir(checkout)
    for name, value in {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": mine, "NODES": homes, "STAND_INS": programs}.items():
        monkeypatch.setenv(name, str(value))
    return homes


def up(cluster: dict[str, Any], tmp_path: Path) -> Machines:
    """`ray up` without its questions to AWS."""
    from ray.autoscaler._private.commands import get_or_create_head_node
    from ray.autoscaler._private.util import prepare_config, validate_config

    key = tmp_path / "key.pem"
    key.touch(mode=0o600)
    config = prepare_config(cluster)
    validate_config(config)
    config["auth"]["ssh_private_key"] = str(key)
    machines = Machines()
    get_or_create_head_node(config, "cluster.yaml", False, False, True, None, _provider=machines)
    return machines


def join(machines: Machines, home: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the head's autoscaler does with a new node, from the head's files."""
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.instance_manager.ray_installer import RayInstaller
    from ray.core.generated.instance_manager_pb2 import Instance

    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    config = AutoscalingConfig(json.loads((home / "ray_bootstrap_config.yaml").read_text()))
    machines.create_node(config.get_cloud_node_config(kind), {TAG_RAY_NODE_KIND: "worker"}, 1)
    RayInstaller(machines, config).install_ray(Instance(instance_type=kind, cloud_instance_id=WORKER), HEAD)


def calls(home: Path) -> list[str]:
    return (home / "calls").read_text().splitlines()


def test_rays_launcher_takes_the_cluster(cluster: dict[str, Any]):
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)
    types = cluster["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0, "GPU": 0}
    assert types["driver"]["resources"] == {RESOURCE: 1}
    assert (types["driver"]["min_workers"], types["gpu"]["min_workers"]) == (1, 0)
    assert [name for name, kind in types.items() if "InstanceMarketOptions" in kind["node_config"]] == ["gpu"]
    images = {kind["node_config"]["ImageId"] for kind in types.values()}
    assert len(images) == 1, "Ray's own default is an Ubuntu on which torch's wheels cannot be installed"
    starts = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    variables = {name: value for name, value in image_environment().items() if name != "PYTHONUNBUFFERED"}
    assert variables["RAY_AUTH_MODE"] == "token"
    for command in starts:
        assert "ray start" not in command or {f"{name}={value}" for name, value in variables.items()} <= set(command.split())
    assert "--dashboard-host" not in str(starts)
    assert "docker" not in cluster, "the image has no rsync, with which the launcher copies its files into a container"


@pytest.mark.filterwarnings("ignore:unclosed file .*ray-bootstrap:ResourceWarning")
def test_the_launcher_brings_up_a_head_that_can_bring_up_the_others(
    cluster: dict[str, Any], nodes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    machines = up(cluster, tmp_path)
    # Ray's launcher leaves a file open, which is collected here and not in another test.
    gc.collect()
    assert machines.tags[HEAD][TAG_RAY_NODE_STATUS] == "up-to-date"
    home = nodes / HEAD
    ready = [call for call in calls(home) if call.startswith("pip")]
    assert [call.rpartition(" ")[2] for call in ready[:1]] == ["setuptools"]
    assert "--no-build-isolation" in ready[1] and f"--requirement {home}/autoslim/requirements.txt" in ready[1]
    assert ready[2].endswith(".whl") and "*" not in ready[2]
    stop, start = (call for call in calls(home) if call.startswith("ray"))
    assert stop.startswith("ray stop")
    assert start.startswith("ray start --head")
    assert start.endswith("auth=token usage=0 head= token=600")
    assert (home / "ray_bootstrap_key.pem").stat().st_mode & 0o777 == 0o600

    join(machines, home, "gpu", monkeypatch)
    assert machines.tags[WORKER][TAG_RAY_NODE_STATUS] == "up-to-date"
    *_, joined = calls(nodes / WORKER)
    assert joined.startswith(f"ray start --address={HEAD}:6379")
    assert joined.endswith(f"auth=token usage=0 head={HEAD} token=600")
    for name in ("requirements.txt", "constraints.txt"):
        assert (nodes / WORKER / "autoslim" / name).read_bytes() == (DEPLOY / name).read_bytes()


def test_the_head_has_what_its_autoscaler_imports_for_this_provider(
    cluster: dict[str, Any], nodes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from ray.autoscaler._private.providers import _NODE_PROVIDERS

    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ImportError, match="pip install boto3"):
        _NODE_PROVIDERS[cluster["provider"]["type"]](cluster["provider"])
    up(cluster, tmp_path)
    installed = [call for call in calls(nodes / HEAD) if call.startswith("pip install")]
    (boto3,) = (Requirement(word) for call in installed for word in call.split() if word.startswith("boto3"))
    assert [specifier.operator for specifier in boto3.specifier] == ["=="]


def test_a_token_that_others_may_read_is_closed_on_the_nodes(cluster: dict[str, Any], nodes: Path, tmp_path: Path):
    (Path.home() / ".ray" / "auth_token").chmod(0o644)
    up(cluster, tmp_path)
    assert (nodes / HEAD / ".ray").stat().st_mode & 0o777 == 0o700
    assert (nodes / HEAD / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    assert calls(nodes / HEAD)[-1].endswith("token=600")
