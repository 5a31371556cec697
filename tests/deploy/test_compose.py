"""compose.yaml: its schema, and what must hold for every container."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import yaml
from helpers.command_line import parse
from helpers.manifests import DEPLOY

from workers.service.executor import RESOURCE

RAY_SERVICES = ("search", "ray-head", "ray-worker", "search-on-ray", "api", "supervisor")
DRIVES = ("ray-worker", "api", "supervisor")
"""Those that open the service's database."""


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_fits_the_compose_specification(name: str):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(DEPLOY / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_gpus_are_laid_over_services_that_exist(compose: dict[str, Any]):
    gpu = yaml.safe_load((DEPLOY / "compose.gpu.yaml").read_text())
    assert gpu["services"].keys() <= compose["services"].keys()


def test_the_host_publishes_on_loopback_only(compose: dict[str, Any]):
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports), ports
    assert not [name for name, service in compose["services"].items() if service.get("network_mode") == "host"]


def test_every_container_is_limited_and_unprivileged(compose: dict[str, Any]):
    for name, service in compose["services"].items():
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged"), name
        assert name == "postgres" or service["pull_policy"] == "never", name


def test_every_ray_container_asks_for_the_token_and_finds_it_in_a_secret(compose: dict[str, Any]):
    assert set(compose["services"]) == {"mlflow", "postgres", *RAY_SERVICES}
    for name in RAY_SERVICES:
        service = compose["services"][name]
        assert service["environment"]["RAY_AUTH_MODE"] == "token", name
        assert service["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token", name
        assert "ray_token" in service["secrets"], name
        assert service["shm_size"], name


def test_every_secret_is_a_file_that_git_ignores(compose: dict[str, Any]):
    ignored = (DEPLOY.parent / ".gitignore").read_text().split()
    for secret in compose["secrets"].values():
        assert f"/deploy/{secret['file'].removeprefix('./').partition('/')[0]}/" in ignored
    used = {secret for service in compose["services"].values() for secret in service.get("secrets", [])}
    assert used == compose["secrets"].keys()


def test_no_secret_stands_in_the_file():
    for path in DEPLOY.rglob("*.yaml"):
        text = path.read_text()
        assert "RAY_AUTH_TOKEN:" not in text, path
        assert not re.search(r"://[^\s/@]*:[^\s/@]*@", text), path
        # What is called a password is a file.
        for name, value in re.findall(r"(?im)^\s*(\w*password\w*): *(\S.*)$", text):
            assert name.endswith("_FILE") and value.startswith("/run/secrets/"), (path, name)


def test_the_services_parts_find_the_database_without_a_secret_in_its_address(compose: dict[str, Any]):
    for name in DRIVES:
        service = compose["services"][name]
        assert service["environment"]["AUTOSLIM_STORAGE"] == "postgresql+psycopg://autoslim@postgres/autoslim", name
        assert service["environment"]["PGPASSFILE"] == "/run/secrets/pgpass", name
        assert "pgpass" in service["secrets"], name
        assert service["environment"]["AUTOSLIM_ROOT"].startswith("/runs/"), name


def test_the_service_runs_its_drivers_on_the_worker(compose: dict[str, Any]):
    services = compose["services"]
    assert parse(services["api"]["command"])["supervisor"] is False
    assert services["api"]["environment"]["AUTOSLIM_KEYS_REQUIRED"] == "true"
    words = parse(services["supervisor"]["command"])
    assert (words["dashboard"], words["address"]) == ("http://ray-head:8265", "auto")
    assert f'--resources={{"{RESOURCE}": 1}}' in services["ray-worker"]["command"]
    for name in ("postgres", "api", "supervisor", "ray-head", "ray-worker"):
        assert "service" in services[name]["profiles"], name


def test_what_is_there_to_stay_has_a_health_check(compose: dict[str, Any]):
    stays = {name for name, service in compose["services"].items() if not name.startswith("search")}
    assert stays == {name for name, service in compose["services"].items() if "healthcheck" in service}


def test_the_supervisor_is_probed_as_in_the_chart(compose: dict[str, Any]):
    objects = yaml.safe_load_all((DEPLOY / "kuberay" / "service.yaml").read_text())
    (chart,) = (each for each in objects if (each["kind"], each["metadata"]["name"]) == ("Deployment", "autoslim-supervisor"))
    (container,) = chart["spec"]["template"]["spec"]["containers"]
    supervisor = compose["services"]["supervisor"]
    kind, *command = supervisor["healthcheck"]["test"]
    assert kind == "CMD"
    assert [word.replace("$$", "$") for word in command] == container["livenessProbe"]["exec"]["command"]
    assert parse(supervisor["command"])["heartbeat"] == parse(container["command"])["heartbeat"] is not None


def test_the_head_and_the_joining_driver_have_nothing_to_give_away(compose: dict[str, Any]):
    assert "--num-cpus=0" in compose["services"]["ray-head"]["command"]
    script = compose["services"]["search-on-ray"]["entrypoint"][2]
    assert "--num-cpus=0" in script
    assert "--address=auto" in script


def test_the_searches_parse_against_the_command_line(compose: dict[str, Any]):
    local, joining = compose["services"]["search"], compose["services"]["search-on-ray"]
    parse([*local["entrypoint"], *local["command"]])
    _, _, command = joining["entrypoint"][2].partition("exec ")
    words = parse([*command.removesuffix(' "$$@"').split(), *joining["command"]])
    assert words["address"] == "auto"
    assert words["tracking_uri"] == "http://mlflow:5000"


def test_mlflow_answers_to_the_name_the_searches_use(compose: dict[str, Any]):
    (hosts,) = (a for a in compose["services"]["mlflow"]["command"] if a.startswith("--allowed-hosts="))
    assert "mlflow:5000" in hosts
    assert "*" not in hosts
