"""The Helm chart as it runs: every pod's own command, environment, user, rights, volumes and probes, and a job that goes through.

Each pod is a process in namespaces of its own (`helpers/pod.py`), with what KubeRay makes of the RayCluster (`helpers/kuberay.py`).
The values are those of one GPU, with trials that take a CPU.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from helpers.helm_wheel import skip_without_wheel
from helpers.pod import Pod
from helpers.pod_network import PodNetwork, skip_without_namespaces
from helpers.service_search import TINY
from loopback.postgres import find_binaries

skip_without_wheel()

from helm.render import RELEASE  # noqa: E402
from helpers.chart import OVERLAYS, Objects, objects_of  # noqa: E402
from helpers.chart_pods import make_pods, names_of  # noqa: E402
from helpers.kuberay import DASHBOARD_PORT  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(1200)]

PASSWORD, TOKEN = secrets.token_hex(32), secrets.token_hex(32)
SECRETS = {
    # As docs/service/deploy.md makes it; the other one is the operator's.
    "autoslim-database": {"secret": PASSWORD, "storage": f"postgresql+psycopg://autoslim:{PASSWORD}@autoslim-postgres/autoslim"},
    RELEASE: {"auth_token": TOKEN},
}
_SMALL = {"cpu": "1", "memory": "2Gi"}
_ONE = OVERLAYS["one-gpu"]
VALUES = _ONE | {
    "supervisor": _ONE["supervisor"] | {"trialResources": "cpu=1"},
    "ray": {
        "autoscaler": _ONE["ray"]["autoscaler"],
        # Ray starts a process for each CPU of a node.
        "drivers": {"resources": {"requests": _SMALL, "limits": _SMALL}},
        "workers": {"gpu": _ONE["ray"]["workers"]["gpu"] | {"resources": {"requests": _SMALL, "limits": _SMALL}}},
    },
}
JOB = TINY | {"flops": ["50%"], "trials": 2, "epochs": 1.0, "speed": "none", "forms": "none", "final_share": 0.0}
PROBED = ("api", "mlflow", "postgres")
"""What listens; the supervisor has probes, too."""
_MINUTES = 300.0


def until(is_so: Callable[[], bool], what: str, *pods: Pod) -> None:
    deadline = time.monotonic() + _MINUTES
    while not is_so():
        assert time.monotonic() < deadline and all(pod.is_alive() for pod in pods), (what, *(pod.tail() for pod in pods))
        time.sleep(0.5)


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[dict[str, Pod]]:
    """All that the chart installs, started in the order in which Kubernetes would succeed in starting it."""
    skip_without_namespaces()
    if find_binaries() is None:
        pytest.skip("no PostgreSQL server is installed (Debian: postgresql)")
    objects: Objects = objects_of(VALUES)
    with PodNetwork().running() as network:
        pods = make_pods(objects, SECRETS, network, tmp_path)
        assert pods.keys() == {"head", "drivers", "gpu", "api", "supervisor", "mlflow", "postgres"}
        names = names_of(objects, pods)
        try:
            for name in ("postgres", "mlflow", "head"):
                pods[name].start(names)
            pods["postgres"].await_start()
            head = pods["head"]
            until(lambda: is_up(head), "Ray's head", head)
            for name in ("drivers", "gpu", "supervisor"):
                pods[name].start(names)
            yield pods
        finally:
            for pod in pods.values():
                pod.kill()


def dashboard(head: Pod, path: str, token: str = TOKEN) -> httpx.Response:
    url = f"http://{head.address}:{DASHBOARD_PORT}{path}"
    return httpx.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=10, trust_env=False)


def is_up(head: Pod) -> bool:
    try:
        return dashboard(head, "/api/version").is_success
    except httpx.HTTPError:
        return False


def nodes(head: Pod) -> dict[str, str]:
    """The nodes that are alive: ids by address; none where Ray is too busy to say."""
    try:
        found = dashboard(head, "/api/v0/nodes").raise_for_status().json()["data"]["result"]["result"]
    except httpx.HTTPError:
        return {}
    return {node["node_ip"]: node["node_id"] for node in found if node["state"] == "ALIVE"}


def test_what_the_chart_installs_runs_as_it_is_rendered_and_a_job_goes_through(pods: dict[str, Pod], tmp_path: Path) -> None:
    api, supervisor, head = pods["api"], pods["supervisor"], pods["head"]
    names = names_of(objects_of(VALUES), pods)
    # As NOTES.txt says. The API only starts when there is a key.
    words = ("autoslim", "keys", "create", "--tenant", "vision", "--scope", "read", "--scope", "submit", "--name", "me")
    created = supervisor.run(*words)
    assert created.returncode == 0, created.stderr
    api.start(names)
    for name in (*PROBED, "supervisor"):
        pods[name].await_start()
    nodes_of_ray = [pods[name] for name in ("head", "drivers", "gpu")]
    until(lambda: nodes(head).keys() == {pod.address for pod in nodes_of_ray}, "Ray's nodes", *nodes_of_ray)

    # Nobody gets in without a key or the token, nor under a foreign name.
    url = f"http://{api.address}:8400"
    login = {"Host": f"{RELEASE}-api:8400", "Authorization": f"Bearer {created.stdout.split()[-1]}"}
    assert httpx.get(f"{url}/v1/jobs", headers={"Host": login["Host"]}, trust_env=False).status_code == 401
    assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 421
    assert dashboard(head, "/api/jobs/", token="0" * 64).status_code in (401, 403)

    with httpx.Client(base_url=url, headers=login, timeout=60, trust_env=False) as user:
        # The planner takes a while to start.
        until(lambda: user.post("/v1/plans", json=JOB).status_code != 503, "a planner", api)
        job_id = user.post("/v1/jobs", json=JOB).raise_for_status().json()["id"]
        until(lambda: user.get(f"/v1/jobs/{job_id}").json()["ended_at"] is not None, "the job's end", *pods.values())
        job = user.get(f"/v1/jobs/{job_id}").json()
        trials = user.get(f"/v1/jobs/{job_id}/trials").json()["trials"]
    runs = tmp_path / "claims" / f"{RELEASE}-runs" / "service" / "jobs" / job_id
    logs = "\n".join(path.read_text() for path in runs.glob("logs/*.log"))
    assert (job["state"], job["attempt"]) == ("SUCCEEDED", 1), (job["failure"], logs)
    assert [model["label"] for model in job["result"]["models"]] == ["50%"]
    assert {path.stat().st_uid for path in runs.rglob("*")} == {api.spec["securityContext"]["runAsUser"]}
    assert (runs / "models" / "50%" / "config.json").is_file()

    # The driver ran where drivers belong, and MLflow was told of the search and its trials.
    (driver,) = [each for each in dashboard(head, "/api/jobs/").json() if each["submission_id"]]
    assert (driver["submission_id"], driver["driver_node_id"]) == (f"{job_id}-a1", nodes(head)[pods["drivers"].address])
    assert PASSWORD not in str(driver)
    assert tracked(pods["mlflow"]) == len(trials) + 1

    for name in PROBED:
        assert pods[name].passes("readiness") and pods[name].passes("liveness"), pods[name].tail()
    assert supervisor.passes("liveness"), supervisor.tail()
    for pod in pods.values():
        assert_unprivileged(pod)
    assert api.run("touch", "/data/new").returncode != 0
    assert api.run("touch", "/runs/new").returncode == 0
    assert supervisor.end() == 0, supervisor.tail()
    assert api.end() == 0, api.tail()


def tracked(mlflow: Pod) -> int:
    """How many runs MLflow has."""
    headers = {"Host": f"{RELEASE}-mlflow:5000"}
    with httpx.Client(base_url=f"http://{mlflow.address}:5000/api/2.0/mlflow", headers=headers, trust_env=False) as client:
        found = client.post("/experiments/search", json={"max_results": 100}).raise_for_status().json()
        ids = [experiment["experiment_id"] for experiment in found["experiments"]]
        answer = client.post("/runs/search", json={"experiment_ids": ids, "max_results": 1000}).raise_for_status().json()
    return len(answer["runs"])


def assert_unprivileged(pod: Pod) -> None:
    """Every process of the pod has the manifest's user and group, and can never have a right of root's."""
    security = pod.spec["securityContext"]
    for process in pod.processes():
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            # It has ended meanwhile, as Ray's idle workers do.
            continue
        status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
        assert set(status["Uid"].split()) == {str(security["runAsUser"])}, (pod.name, process)
        assert set(status["Gid"].split()) == {str(security["runAsGroup"])}, (pod.name, process)
        assert int(status["CapBnd"], 16) == int(status["CapPrm"], 16) == 0, (pod.name, process)
        assert status["NoNewPrivs"] == "1", (pod.name, process)
