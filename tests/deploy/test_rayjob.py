"""rayjob.yaml: the fields we use, and what must hold for every pod."""

from __future__ import annotations

import json
import shlex
from typing import Any

import jsonschema
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


def test_ray_asks_for_a_token(rayjob: dict[str, Any]):
    assert rayjob["spec"]["rayClusterSpec"]["authOptions"]["mode"] == "token"


def test_every_claim_exists_and_all_nodes_can_write_the_runs(pods: dict[str, dict[str, Any]]):
    claims = {c["metadata"]["name"]: c["spec"] for c in yaml.safe_load_all((DEPLOY / "kuberay" / "storage.yaml").read_text())}
    used = {v["persistentVolumeClaim"]["claimName"] for pod in pods.values() for v in pod.get("volumes", [])}
    assert used == claims.keys()
    assert claims["autoslim-runs"]["accessModes"] == ["ReadWriteMany"]
