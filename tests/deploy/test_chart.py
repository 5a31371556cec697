"""The Helm chart with several files of values: every object fits its schema, and what must hold for every pod."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from helpers.command_line import parse
from helpers.helm_wheel import skip_without_wheel
from helpers.manifests import DEPLOY, assert_limited_and_unprivileged
from ray._private.ray_constants import RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S

from workers.service.executor import RESOURCE
from workers.service.lease_keeper import CANCEL_GRACE

skip_without_wheel()

import helm_python  # noqa: E402
from helm.render import CHART, RELEASE, plain_manifests, render  # noqa: E402
from helm.validate import SCENARIOS, lines, validate  # noqa: E402
from helpers.chart import OVERLAYS, Objects, cluster_of, container_of, objects_of, pods_of  # noqa: E402

assert SCENARIOS.keys() == {"default", "one-gpu", "spot", "gcs-ft", "external"}


@pytest.fixture(scope="module", params=SCENARIOS)
def objects(request: pytest.FixtureRequest) -> Objects:
    return objects_of(SCENARIOS[request.param])


@pytest.fixture(scope="module")
def default() -> Objects:
    return objects_of({})


def variables(pod: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container_of(pod).get("env", ())}


def labels_of(objects: Objects) -> Iterator[tuple[str, dict[str, str]]]:
    """Name and labels of each kind of pod; those of Ray are KubeRay's."""
    for (kind, name), item in objects.items():
        if kind in ("Deployment", "StatefulSet"):
            yield name.removeprefix(f"{RELEASE}-"), item["spec"]["template"]["metadata"]["labels"]
    yield "head", {"ray.io/cluster": RELEASE, "ray.io/node-type": "head", "ray.io/group": "headgroup"}
    for group in cluster_of(objects)["workerGroupSpecs"]:
        yield group["groupName"], {"ray.io/cluster": RELEASE, "ray.io/node-type": "worker", "ray.io/group": group["groupName"]}


def selected(objects: Objects, item: dict[str, Any]) -> set[str]:
    """The pods that an object's selector finds: a policy's, a budget's or a peer's."""
    selector = item.get("podSelector") or item.get("selector")
    wanted = selector["matchLabels"].items()
    return {name for name, labels in labels_of(objects) if wanted <= labels.items()}


def test_every_object_fits_its_schema():
    told = list(lines())
    assert [line.partition(": ")[0] for line in told] == list(SCENARIOS)
    assert all(int(line.split()[1]) >= 10 and "RayCluster" in line for line in told)
    page = (DEPLOY.parent / "docs" / "service" / "deploy.md").read_text()
    assert "\n".join(told) in page


def test_the_check_finds_a_field_that_there_is_not(default: Objects):
    broken = json.loads(json.dumps(default["Deployment", "autoslim-api"]))
    broken["spec"]["template"]["spec"]["containers"][0]["imagePolicy"] = "Never"
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(broken)
    broken = json.loads(json.dumps(default["RayCluster", RELEASE]))
    broken["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["imagePolicy"] = "Never"
    with pytest.raises(jsonschema.ValidationError):
        validate(broken)


def test_the_ray_cluster_is_of_the_operators_version(objects: Objects):
    item = objects["RayCluster", RELEASE]
    assert item.keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert item["apiVersion"] == "ray.io/v1"


def test_the_plain_manifests_are_current():
    stale = [path.name for path, text in plain_manifests().items() if path.read_text() != text]
    assert stale == [], "`make manifests` writes them anew"


def test_helm_lint_finds_nothing():
    for name, values in SCENARIOS.items():
        report = helm_python.lint(CHART, values, strict=True)
        assert report["total_charts_linted"] == 1
        assert [message for message in report["messages"] if message["severity"] > 1] == [], name


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"image": {"tag": "latest"}}, "tag"),
        ({"ray": {"version": "2.60"}}, "version"),
        ({"ray": {"head": {"resources": None}}}, "resources"),
        ({"api": {"resources": {"limits": {"memory": None}}}}, "memory"),
        ({"mlflow": {"builtIn": False}}, "mlflow.address"),
        ({"ray": {"workers": {"drivers": {"minReplicas": 0, "maxReplicas": 1, "resources": {
            "requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}}}}}, "drivers"),
    ],
)  # fmt: skip
def test_values_that_break_a_rule_are_refused_by_name(values: dict[str, Any], named: str):
    with pytest.raises(helm_python.HelmError, match=re.escape(named)):
        render(values)


def test_every_pod_is_limited_and_unprivileged(objects: Objects):
    autoscaler = cluster_of(objects).get("autoscalerOptions")
    for name, pod in pods_of(objects).items():
        assert_limited_and_unprivileged(name, pod, token=name == "head" and autoscaler is not None)
    if autoscaler is not None:
        assert autoscaler["resources"]["limits"].keys() == {"cpu", "memory"}
        assert autoscaler["securityContext"] == container_of(pods_of(objects)["head"])["securityContext"]


def test_rays_pods_have_time_to_write_checkpoints_and_then_to_end(objects: Objects, compose: dict[str, Any]):
    nodes = {"head", *(group["groupName"] for group in cluster_of(objects)["workerGroupSpecs"])}
    found = {pods_of(objects)[name].get("terminationGracePeriodSeconds") for name in nodes}
    assert found == {int(compose["services"]["ray-worker"]["stop_grace_period"].removesuffix("s"))}
    assert found.pop() > max(CANCEL_GRACE, RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S)


def test_the_tag_of_the_image_is_the_version_of_ray_that_is_pinned(objects: Objects):
    (pinned,) = re.findall(r"^ray\[.*\]==(.+)$", (DEPLOY / "requirements.txt").read_text(), flags=re.MULTILINE)
    assert cluster_of(objects)["rayVersion"] == pinned
    images = {container_of(pod)["image"] for name, pod in pods_of(objects).items() if name != "postgres"}
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert images == {f"autoslim:{version}-ray{pinned}"}


def test_the_database_is_that_of_the_compose_file(default: Objects, compose: dict[str, Any]):
    assert container_of(pods_of(default)["postgres"])["image"] == compose["services"]["postgres"]["image"]


def test_ray_asks_for_a_token_and_only_the_supervisor_is_given_it(objects: Objects):
    assert cluster_of(objects)["authOptions"] == {"mode": "token"}
    known = {name: variables(pod) for name, pod in pods_of(objects).items()}
    assert known["supervisor"]["RAY_AUTH_MODE"] == "token"
    assert {name for name, found in known.items() if "RAY_AUTH_TOKEN" in found} == {"supervisor"}
    assert known["supervisor"]["RAY_AUTH_TOKEN"] == {"secretKeyRef": {"name": RELEASE, "key": "auth_token"}}


def test_the_database_is_open_to_those_that_need_it(objects: Objects):
    storage = {"secretKeyRef": {"name": "autoslim-database", "key": "storage"}}
    stores = {name: variables(pod).get("AUTOSLIM_STORAGE") for name, pod in pods_of(objects).items()}
    assert {name for name, found in stores.items() if found is not None} == {"api", "supervisor", "drivers"}
    assert all(found in (None, storage) for found in stores.values())


def test_whatever_listens_beyond_loopback_is_behind_a_policy(objects: Objects):
    policies = [item["spec"] for (kind, _), item in objects.items() if kind == "NetworkPolicy"]
    guarded = set().union(*(selected(objects, policy) for policy in policies if "Ingress" in policy["policyTypes"]))
    assert guarded == pods_of(objects).keys()
    for policy in policies:
        for rule in policy.get("ingress", ()):
            assert rule["from"], "no peer is everybody"
    services = [item["spec"] for (kind, _), item in objects.items() if kind == "Service"]
    assert all(service.get("type", "ClusterIP") == "ClusterIP" for service in services)


def who_reaches(objects: Objects, component: str) -> set[str]:
    policy = objects["NetworkPolicy", f"{RELEASE}-{component}"]["spec"]
    peers = [peer for rule in policy.get("ingress", ()) for peer in rule["from"]]
    return set().union(*(selected(objects, peer) for peer in peers))


def test_the_policies_let_in_those_that_connect(default: Objects):
    assert who_reaches(default, "postgres") == {"api", "supervisor", "drivers"}
    assert who_reaches(default, "mlflow") == {"drivers"}
    assert who_reaches(default, "api") == set()
    assert who_reaches(default, "ray") == {"head", "drivers", "gpu", "supervisor"}


def test_peers_that_are_named_are_let_in():
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}
    found = objects_of({"network": {"apiFrom": [peer], "mlflowFrom": [peer], "dashboardFrom": [peer], "metricsFrom": [peer]}})
    for component in ("api", "mlflow", "ray"):
        rules = found["NetworkPolicy", f"{RELEASE}-{component}"]["spec"]["ingress"]
        assert peer in [entry for rule in rules for entry in rule["from"]], component
        assert all(rule["from"] and (rule.get("ports") or component == "ray") for rule in rules)


def test_services_find_their_pods_and_clients_the_services(objects: Objects):
    pods = pods_of(objects)
    for (kind, name), item in objects.items():
        if kind == "Service":
            component = name.removeprefix(f"{RELEASE}-")
            selector = {"selector": {"matchLabels": item["spec"]["selector"]}}
            assert selected(objects, selector) == {component}
            (port,) = item["spec"]["ports"]
            assert [port["name"]] == [entry["name"] for entry in container_of(pods[component])["ports"]]
    tracking = variables(pods["supervisor"])["AUTOSLIM_TRACKING_URI"]
    built_in = ("Service", "autoslim-mlflow") in objects
    assert tracking == ("http://autoslim-mlflow:5000" if built_in else "http://mlflow:5000")
    if built_in:
        (hosts,) = (a for a in container_of(pods["mlflow"])["command"] if a.startswith("--allowed-hosts="))
        assert tracking.removeprefix("http://") in hosts
        assert "*" not in hosts


def test_the_commands_parse_and_find_one_another(objects: Objects):
    pods = pods_of(objects)
    api = parse(container_of(pods["api"])["command"])
    assert (api["host"], api["supervisor"], api["insecure"]) == ("0.0.0.0", False, False)
    assert variables(pods["api"])["AUTOSLIM_KEYS_REQUIRED"] == "true"
    assert objects["Service", "autoslim-api"]["spec"]["ports"][0]["port"] == api["port"]
    supervisor = parse(container_of(pods["supervisor"])["command"])
    assert supervisor["dashboard"] == f"http://{RELEASE}-head-svc:8265"
    assert supervisor["address"] == "auto"
    roots = {variables(pods[name])["AUTOSLIM_ROOT"] for name in ("api", "supervisor")}
    assert len(roots) == 1
    assert roots.pop().startswith("/runs/")


def test_where_room_is_made_the_caches_are_those_of_the_nodes(objects: Objects):
    pods = pods_of(objects)
    nodes = ["drivers", *(group["groupName"] for group in cluster_of(objects)["workerGroupSpecs"])]
    assert {variables(pods[name])["AUTOSLIM_CACHE"] for name in ("supervisor", *nodes)} == {"/runs/.cache"}


def test_drivers_run_on_nodes_of_their_own_and_nothing_on_the_head(objects: Objects):
    head = cluster_of(objects)["headGroupSpec"]["rayStartParams"]
    assert (head["num-cpus"], head["num-gpus"]) == ("0", "0")
    groups = {group["groupName"]: group for group in cluster_of(objects)["workerGroupSpecs"]}
    # KubeRay wants it quoted twice.
    assert json.loads(json.loads(groups["drivers"]["rayStartParams"]["resources"])) == {RESOURCE: 1}
    assert groups["drivers"]["minReplicas"] >= 1
    assert RESOURCE not in str([head, *(group for name, group in groups.items() if name != "drivers")])


def test_trials_fit_the_workers_and_as_many_run_as_there_may_be(objects: Objects):
    from autoslim.core.job import Resources

    supervisor = parse(container_of(pods_of(objects)["supervisor"])["command"])
    trial = Resources.parse(supervisor["resources"])
    workers = [group for group in cluster_of(objects)["workerGroupSpecs"] if group["groupName"] != "drivers"]
    for group in workers:
        limits = container_of(group["template"]["spec"])["resources"]["limits"]
        assert float(limits["nvidia.com/gpu"]) >= trial.gpu
        assert float(limits["cpu"]) >= trial.cpu
        assert ("enableInTreeAutoscaling" in cluster_of(objects)) or group["minReplicas"] == group["maxReplicas"]
    assert supervisor["concurrency"] == sum(group["maxReplicas"] for group in workers)


def test_spot_takes_the_workers_only():
    found = objects_of(OVERLAYS["spot"])
    assert cluster_of(found)["autoscalerOptions"]["version"] == "v2"
    pods = pods_of(found)
    assert pods.keys() == {"head", "drivers", "gpu", "api", "supervisor", "postgres", "mlflow"}
    kinds = {name: pod.get("nodeSelector", {}).get("karpenter.sh/capacity-type") for name, pod in pods.items()}
    assert kinds == dict.fromkeys(pods, "on-demand") | {"gpu": "spot"}
    tolerant = {name for name, pod in pods.items() if "spot" in [entry["key"] for entry in pod.get("tolerations", ())]}
    assert tolerant == {"gpu"}


@pytest.mark.parametrize(
    ("part", "pod"),
    [(("api",), "api"), (("supervisor",), "supervisor"), (("database",), "postgres"), (("mlflow",), "mlflow"),
     (("ray", "head"), "head"), (("ray", "drivers"), "drivers"), (("ray", "workers", "gpu"), "gpu")],
)  # fmt: skip
def test_every_part_may_be_given_its_nodes(part: tuple[str, ...], pod: str):
    placed = {"nodeSelector": {"pool": "mine"}, "tolerations": [{"key": "mine", "operator": "Exists"}]}
    values: dict[str, Any] = placed
    for name in reversed(part):
        values = {name: values}
    pods = pods_of(objects_of(values))
    assert {key: pods[pod][key] for key in placed} == placed
    assert [name for name, found in pods.items() if found.get("nodeSelector") == placed["nodeSelector"]] == [pod]


def test_the_password_of_redis_stays_in_its_secret():
    options = cluster_of(objects_of(OVERLAYS["gcs-ft"]))["gcsFaultToleranceOptions"]
    assert options["redisAddress"] == "redis:6379"
    assert options["redisPassword"] == {"valueFrom": {"secretKeyRef": {"name": "autoslim-redis", "key": "auth"}}}
    assert "gcsFaultToleranceOptions" not in cluster_of(objects_of({}))


def test_what_is_not_built_in_is_not_there():
    found = objects_of(OVERLAYS["external"])
    assert not [name for _, name in found if "postgres" in name or "mlflow" in name]


def test_whatever_runs_is_probed(objects: Objects):
    # KubeRay adds those of its nodes.
    nodes = {"head", *(group["groupName"] for group in cluster_of(objects)["workerGroupSpecs"])}
    for name in pods_of(objects).keys() - nodes:
        assert container_of(pods_of(objects)[name]).keys() >= {"startupProbe", "livenessProbe"}, name
    for name in pods_of(objects).keys() & {"api", "mlflow", "postgres"}:
        container = container_of(pods_of(objects)[name])
        assert "readinessProbe" in container, name
    paths = [container_of(pods_of(objects)["api"])[f"{kind}Probe"]["httpGet"]["path"] for kind in ("liveness", "readiness")]
    assert paths == ["/healthz", "/readyz"]


def test_the_supervisors_probe_fails_without_a_heartbeat_and_with_an_old_one(default: Objects, tmp_path: Path):
    pod = pods_of(default)["supervisor"]
    command = parse(container_of(pod)["command"])
    file, probe = tmp_path / "heartbeat", container_of(pod)["livenessProbe"]["exec"]["command"]
    assert container_of(pod)["startupProbe"]["exec"]["command"] == probe
    assert str(command["heartbeat"]) in probe[-1]
    here = [word.replace(str(command["heartbeat"]), str(file)) for word in probe]

    def passes() -> bool:
        return subprocess.run(here, capture_output=True).returncode == 0

    assert not passes()
    file.touch()
    assert passes()
    os.utime(file, (time.time() - 400,) * 2)
    assert not passes()


def test_budgets_keep_what_cannot_be_replaced(default: Objects):
    budgets = {name: item["spec"] for (kind, name), item in default.items() if kind == "PodDisruptionBudget"}
    kept = {name for budget in budgets.values() for name in selected(default, budget)}
    assert kept == {"head", "drivers", "api", "postgres"}
    assert all(len(selected(default, budget)) == 1 for budget in budgets.values())


def test_every_claim_exists_and_a_claim_of_yours_is_used(default: Objects):
    def used(objects: Objects) -> set[str]:
        volumes = [volume for pod in pods_of(objects).values() for volume in pod.get("volumes", ())]
        return {volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume}

    assert used(default) == {name for kind, name in default if kind == "PersistentVolumeClaim"}
    found = objects_of({"storage": {"runs": {"existingClaim": "shared"}}})
    assert "shared" in used(found)
    assert ("PersistentVolumeClaim", "autoslim-runs") not in found


def test_two_releases_share_no_name():
    first, second = (set(objects_of({}, release=release)) for release in ("autoslim-a", "b"))
    assert not first & second
    assert ("RayCluster", "b-autoslim") in second
