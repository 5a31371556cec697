"""rayjob.yaml: the fields we use, and what must hold for every pod."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from helpers.command_line import parse
from helpers.manifests import DEPLOY, assert_limited_and_unprivileged

SCHEMA = DEPLOY / "kuberay" / "rayjob.schema.json"


def test_fits_the_schema_of_the_fields_we_use(rayjob: dict[str, Any]):
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(rayjob, schema, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize("path", [("spec",), ("spec", "rayClusterSpec"), ("spec", "rayClusterSpec", "headGroupSpec", "template")])
def test_the_schema_finds_a_field_that_there_is_not(rayjob: dict[str, Any], path: tuple[str, ...]):
    broken = json.loads(json.dumps(rayjob))
    place = broken
    for key in path:
        place = place[key]
    place["entryPoint"] = "misspelt"
    with pytest.raises(jsonschema.ValidationError, match="entryPoint"):
        jsonschema.validate(broken, json.loads(SCHEMA.read_text()), cls=jsonschema.Draft202012Validator)


def test_the_entrypoint_parses_against_the_command_line(rayjob: dict[str, Any], pods: dict[str, dict[str, Any]]):
    words = parse(shlex.split(rayjob["spec"]["entrypoint"]))
    assert words["address"] == "auto", "without it the search starts a Ray of its own inside the driver"
    mounts = {mount["mountPath"] for mount in pods["gpu"]["containers"][0]["volumeMounts"]}
    assert f"/{str(words['output']).split('/')[1]}" in mounts
    assert f"/{str(words['data']).split('/')[1]}" in mounts


def test_a_worker_has_room_for_a_trial_beside_the_driver(rayjob: dict[str, Any], pods: dict[str, dict[str, Any]]):
    from autoslim.core.job import Resources

    trial = Resources.parse(parse(shlex.split(rayjob["spec"]["entrypoint"]))["resources"])
    limits = pods["gpu"]["containers"][0]["resources"]["limits"]
    assert float(limits["nvidia.com/gpu"]) >= trial.gpu
    assert float(limits["cpu"]) >= trial.cpu + rayjob["spec"]["entrypointNumCpus"]


def test_the_driver_cannot_sit_on_the_head(rayjob: dict[str, Any]):
    assert rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert rayjob["spec"]["entrypointNumCpus"] > 0


def test_a_failed_job_is_resumed_and_not_begun_again(rayjob: dict[str, Any]):
    assert rayjob["spec"]["backoffLimit"] == 0
    assert rayjob["spec"]["shutdownAfterJobFinishes"] is True


def test_every_pod_is_limited_and_unprivileged(pods: dict[str, dict[str, Any]]):
    assert pods.keys() >= {"submitter", "head", "gpu"}
    for name, pod in pods.items():
        assert_limited_and_unprivileged(name, pod)


def test_the_nodes_have_as_long_to_end_as_the_services(pods: dict[str, dict[str, Any]]):
    (cluster,) = (
        item for item in yaml.safe_load_all((DEPLOY / "kuberay" / "service.yaml").read_text()) if item["kind"] == "RayCluster"
    )
    expected = cluster["spec"]["headGroupSpec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert {pods[name].get("terminationGracePeriodSeconds") for name in ("head", "gpu")} == {expected}


def test_ray_asks_for_a_token(rayjob: dict[str, Any]):
    assert rayjob["spec"]["rayClusterSpec"]["authOptions"]["mode"] == "token"


def labels_of(pod_templates: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    """By pod, with those that KubeRay sets on Ray's nodes. It makes up the end of the cluster's name."""
    found = {name: dict(template["metadata"]["labels"]) for name, template in pod_templates.items()}
    for name in found.keys() - {"submitter"}:
        found[name] |= {"ray.io/cluster": "autoslim-search-x7k2p", "ray.io/node-type": "head" if name == "head" else "worker"}
    return found


def who_reaches(policy: dict[str, Any], port: int, pods: dict[str, dict[str, str]]) -> set[str]:
    """Of pods of the policy's own namespace, by their labels."""
    rules = [rule for rule in policy["ingress"] if port in [entry["port"] for entry in rule.get("ports", [{"port": port}])]]
    wanted = [peer["podSelector"]["matchLabels"].items() for rule in rules for peer in rule["from"]]
    return {name for name, found in pods.items() if any(labels <= found.items() for labels in wanted)}


@pytest.mark.parametrize("version", ["1.27", "1.32"])
def test_the_policy_fits_the_schema_of_kubernetes(rayjob_objects: dict[str, dict[str, Any]], version: str):
    kubernetes_validate.validate(rayjob_objects["NetworkPolicy"], version, strict=True)


def test_whatever_listens_beyond_loopback_is_behind_the_policy(
    rayjob_objects: dict[str, dict[str, Any]], pod_templates: dict[str, dict[str, Any]]
):
    policy = rayjob_objects["NetworkPolicy"]["spec"]
    labels = labels_of(pod_templates)
    assert policy["policyTypes"] == ["Ingress"]
    assert {
        name for name, found in labels.items() if policy["podSelector"]["matchLabels"].items() <= found.items()
    } == pod_templates.keys()
    assert all(rule["from"] for rule in policy["ingress"]), "no peer is everybody"


def test_the_policy_lets_in_those_that_connect(
    rayjob_objects: dict[str, dict[str, Any]], pod_templates: dict[str, dict[str, Any]]
):
    policy = rayjob_objects["NetworkPolicy"]["spec"]
    own = labels_of(pod_templates)
    others = {
        f"other {name}": {**labels, "app.kubernetes.io/instance": "other-search", "ray.io/cluster": "other-search-q9m4d"}
        for name, labels in own.items()
    }
    operator = {"operator": {"app.kubernetes.io/component": "kuberay-operator"}}
    pods = own | others | operator | {"no labels": {}}
    assert who_reaches(policy, 8080, pods) == {"head", "gpu"}, "the metrics have no token"
    assert who_reaches(policy, 8265, pods) == {"head", "gpu", "submitter", "operator"}
    # From other namespaces only the operator, which is in one of its own.
    elsewhere = [peer for rule in policy["ingress"] for peer in rule["from"] if "namespaceSelector" in peer]
    assert [peer["podSelector"]["matchLabels"] for peer in elsewhere] == list(operator.values())


def test_the_name_is_the_same_wherever_it_stands(
    rayjob_objects: dict[str, dict[str, Any]], pod_templates: dict[str, dict[str, Any]]
):
    (name,) = {item["metadata"]["name"] for item in rayjob_objects.values()}
    assert {template["metadata"]["labels"]["app.kubernetes.io/instance"] for template in pod_templates.values()} == {name}


def test_its_mlflow_server_lets_in_the_nodes_that_drivers_are_on_and_takes_what_they_are_told(
    rayjob: dict[str, Any], pod_templates: dict[str, dict[str, Any]]
):
    text = (DEPLOY / "kuberay" / "mlflow.yaml").read_text()
    items = {item["kind"]: item for item in yaml.safe_load_all(text)}
    assert items.keys() == {"Deployment", "PersistentVolumeClaim", "Service", "NetworkPolicy"}
    for item in items.values():
        for version in ("1.27", "1.32"):
            kubernetes_validate.validate(item, version, strict=True)
    template = items["Deployment"]["spec"]["template"]
    policy = items["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    labels = labels_of(pod_templates)
    assert who_reaches(policy, 5000, labels) == pod_templates.keys() - {"submitter", "head"}
    (flag,) = re.findall(r"^#   (--tracking-uri \S+)$", text, flags=re.MULTILINE)
    told = parse(shlex.split(f"{rayjob['spec']['entrypoint']} {flag}"))["tracking_uri"]
    service = items["Service"]
    assert told == f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    (hosts,) = (word for word in template["spec"]["containers"][0]["command"] if word.startswith("--allowed-hosts="))
    assert str(told).removeprefix("http://") in hosts


def test_every_claim_exists_and_all_nodes_can_write_the_runs(pods: dict[str, dict[str, Any]]):
    claims = {c["metadata"]["name"]: c["spec"] for c in yaml.safe_load_all((DEPLOY / "kuberay" / "storage.yaml").read_text())}
    used = {v["persistentVolumeClaim"]["claimName"] for pod in pods.values() for v in pod.get("volumes", [])}
    assert used == claims.keys()
    assert claims["autoslim-runs"]["accessModes"] == ["ReadWriteMany"]
