"""kuberay/service.yaml: every object fits its schema, and what must hold for every pod."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from helpers.command_line import parse
from helpers.manifests import DEPLOY, assert_limited_and_unprivileged

from workers.service.executor import RESOURCE

KUBERNETES = "1.32"


@pytest.fixture(scope="module")
def objects() -> dict[tuple[str, str], dict[str, Any]]:
    listed = yaml.safe_load((DEPLOY / "kuberay" / "service.yaml").read_text())
    assert (listed["apiVersion"], listed["kind"]) == ("v1", "List")
    return {(item["kind"], item["metadata"]["name"]): item for item in listed["items"]}


@pytest.fixture(scope="module")
def service_pods(objects: dict[tuple[str, str], dict[str, Any]]) -> dict[str, dict[str, Any]]:
    cluster = objects["RayCluster", "autoslim"]["spec"]
    return {
        "head": cluster["headGroupSpec"]["template"]["spec"],
        **{group["groupName"]: group["template"]["spec"] for group in cluster["workerGroupSpecs"]},
        **{name: item["spec"]["template"]["spec"] for (kind, name), item in objects.items() if kind == "Deployment"},
    }


def variables(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["containers"]
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def test_kubernetes_own_objects_fit_its_schemas(objects: dict[tuple[str, str], dict[str, Any]]):
    checked = [item for (kind, _), item in objects.items() if kind != "RayCluster"]
    checked += yaml.safe_load_all((DEPLOY / "kuberay" / "storage.yaml").read_text())
    assert len(checked) == 5
    for item in checked:
        kubernetes_validate.validate(item, KUBERNETES, strict=True)


def test_the_check_finds_a_field_that_there_is_not(objects: dict[tuple[str, str], dict[str, Any]]):
    broken = json.loads(json.dumps(objects["Deployment", "autoslim-api"]))
    broken["spec"]["template"]["spec"]["containers"][0]["imagePolicy"] = "Never"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


def test_the_ray_cluster_fits_the_schema_of_the_fields_we_use(objects: dict[tuple[str, str], dict[str, Any]]):
    item = objects["RayCluster", "autoslim"]
    assert item.keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert item["apiVersion"] == "ray.io/v1"
    definitions = json.loads((DEPLOY / "kuberay" / "rayjob.schema.json").read_text())["$defs"]
    schema = {"$ref": "#/$defs/cluster", "$defs": definitions}
    jsonschema.validate(item["spec"], schema, cls=jsonschema.Draft202012Validator)


def test_the_commands_parse_and_find_one_another(
    objects: dict[tuple[str, str], dict[str, Any]], service_pods: dict[str, dict[str, Any]]
):
    api = parse(service_pods["autoslim-api"]["containers"][0]["command"])
    assert (api["host"], api["supervisor"], api["insecure"]) == ("0.0.0.0", False, False)
    assert objects["Service", "autoslim-api"]["spec"]["ports"][0]["port"] == api["port"]
    supervisor = parse(service_pods["autoslim-supervisor"]["containers"][0]["command"])
    assert supervisor["dashboard"] == "http://autoslim-head-svc:8265"
    assert supervisor["address"] == "auto"


def test_drivers_run_on_workers_only_and_all_parts_open_the_same_database(
    objects: dict[tuple[str, str], dict[str, Any]], service_pods: dict[str, dict[str, Any]]
):
    spec = objects["RayCluster", "autoslim"]["spec"]
    assert RESOURCE not in str(spec["headGroupSpec"]["rayStartParams"])
    (workers,) = spec["workerGroupSpecs"]
    # KubeRay wants it quoted twice.
    assert json.loads(json.loads(workers["rayStartParams"]["resources"])) == {RESOURCE: 1}
    stores = [variables(service_pods[name])["AUTOSLIM_STORAGE"] for name in ("gpu", "autoslim-api", "autoslim-supervisor")]
    assert stores == [{"secretKeyRef": {"name": "autoslim-database", "key": "storage"}}] * 3
    roots = [variables(service_pods[name])["AUTOSLIM_ROOT"] for name in ("autoslim-api", "autoslim-supervisor")]
    assert roots[0] == roots[1]
    assert roots[0].startswith("/runs/")


def test_ray_asks_for_a_token_and_the_supervisor_has_it(
    objects: dict[tuple[str, str], dict[str, Any]], service_pods: dict[str, dict[str, Any]]
):
    assert objects["RayCluster", "autoslim"]["spec"]["authOptions"]["mode"] == "token"
    known = variables(service_pods["autoslim-supervisor"])
    assert known["RAY_AUTH_MODE"] == "token"
    assert known["RAY_AUTH_TOKEN"] == {"secretKeyRef": {"name": "autoslim", "key": "auth_token"}}
    assert "RAY_AUTH_TOKEN" not in variables(service_pods["autoslim-api"])
    assert variables(service_pods["autoslim-api"])["AUTOSLIM_KEYS_REQUIRED"] == "true"


def test_every_pod_of_the_service_is_limited_and_unprivileged(service_pods: dict[str, dict[str, Any]]):
    assert service_pods.keys() == {"head", "gpu", "autoslim-supervisor", "autoslim-api"}
    for name, pod in service_pods.items():
        assert_limited_and_unprivileged(name, pod)


def test_one_image_and_one_ray_everywhere(service_pods: dict[str, dict[str, Any]], pods: dict[str, dict[str, Any]]):
    images = {container["image"] for pod in [*service_pods.values(), *pods.values()] for container in pod["containers"]}
    assert len(images) == 1
    spec = yaml.safe_load((DEPLOY / "kuberay" / "service.yaml").read_text())["items"][0]["spec"]
    assert images == {f"autoslim:0.1.0-ray{spec['rayVersion']}"}
