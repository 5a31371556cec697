"""The commands that back up and restore Compose and the chart: they name what there is, and what runs in a container does its work.

`docker`, `kubectl` and `helm` are stand-ins. What they are to run in a container they run here, with the server of the test.
"""

from __future__ import annotations

import json
import re
import shlex
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helpers.backups import run_section
from helpers.databases import PASSWORD, postgres_server
from helpers.manifests import DEPLOY, ROOT, assert_limited_and_unprivileged
from loopback.postgres import Postgres

from autoslim.store import Queue

STAND_IN = """
import json, os, subprocess, sys
words, inner, takes_input = sys.argv[1:], [], True
with open(os.environ["TEST_CALLS"], "a") as calls:
    calls.write(json.dumps([os.path.basename(sys.argv[0]), *words]) + "\\n")
if "exec" in words or "run" in words:
    inner = words[words.index("exec" if "exec" in words else "run") + 1 :]
    if "--" in inner:
        takes_input, inner = "--stdin" in inner, inner[inner.index("--") + 1 :]
    else:
        while inner[0].startswith("-"):
            inner = inner[1:]
        inner = inner[1:]
inner = [word.replace("/runs/", os.environ["TEST_RUNS"] + "/") for word in inner]
sys.exit(subprocess.call(inner, stdin=None if takes_input else subprocess.DEVNULL) if inner else 0)
"""
KINDS = ["Compose", "the chart"]


@pytest.fixture
def server() -> Iterator[Postgres]:
    """One of its own, whose database has the name that those of the manifests have."""
    with postgres_server() as server:
        server.create_database("autoslim", password=PASSWORD)
        yield server


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[list[str]]]:
    """Runs a section, and returns the commands that the stand-ins were called with."""
    programs, calls = tmp_path / "programs", tmp_path / "calls"
    programs.mkdir()
    for name in ("docker", "kubectl", "helm"):
        (programs / name).write_text(f"#!{sys.executable}\n{STAND_IN}")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("TEST_CALLS", str(calls))
    monkeypatch.setenv("TEST_RUNS", str(tmp_path / "runs"))

    def run(heading: str) -> list[list[str]]:
        calls.write_text("")
        run_section(heading, root=tmp_path / "no-root", backup=tmp_path / "backup", stand_ins=programs)
        return [json.loads(line) for line in calls.read_text().splitlines()]

    return run


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.short
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_backed_up_is_there_after_a_restore(
    kind: str, play: Callable[[str], list[list[str]]], server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    for name, value in (("PGHOST", "127.0.0.1"), ("PGPORT", str(server.port)), ("POSTGRES_PASSWORD_FILE", str(password))):
        monkeypatch.setenv(name, value)
    root, url = tmp_path / "runs" / "service", server.url("autoslim", password=PASSWORD)
    for name in ("jobs/ID/model.txt", "drivers/ID-a1.json", "service"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    # As the service makes it.
    root.chmod(0o700)
    with Queue(url) as queue:
        before = [queue.submit("{}", tenant="me")[0].id for _ in range(2)]
        play(f"Back up {kind}")
        queue.submit("{}", tenant="me")
    (root / "jobs" / "ID" / "later.txt").touch()
    play(f"Restore {kind}")
    for database, kept in ((url, 2), (server.url("autoslim_former", password=PASSWORD), 3)):
        with Queue(database) as queue:
            found = {job.id for job in queue.list()}
        assert set(before) <= found
        assert len(found) == kept
    assert files(root) == ["jobs/ID/model.txt", "service"]
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    former = ["drivers/ID-a1.json", "jobs/ID/later.txt", "jobs/ID/model.txt", "service"]
    assert files(tmp_path / "runs" / "service.former") == former
    for copy in ("autoslim.dump", "root.tar"):
        assert stat.S_IMODE((tmp_path / "backup" / copy).stat().st_mode) == 0o600


def commands(heading: str) -> list[list[str]]:
    """Those of a section, without what the shell does with their input and output."""
    section = (ROOT / "docs" / "service" / "backup.md").read_text().partition(f"\n### {heading}\n")[2].partition("\n##")[0]
    lines = [shlex.split(line) for line in section.partition("```sh\n")[2].partition("```")[0].splitlines()]
    return [line[: min([*(line.index(sign) for sign in "<>" if sign in line), len(line)])] for line in lines]


def sections(kind: str) -> list[list[str]]:
    return [words for what in ("Back up", "Restore") for words in commands(f"{what} {kind}")]


def assert_fits(inner: list[str], environment: dict[str, str], mounts: list[str]) -> None:
    """What runs in a container finds its paths and variables there."""
    text = " ".join(inner)
    if "/runs" in text:
        assert "/runs" in mounts, text
    if "username" in text:
        assert f"--username={environment['POSTGRES_USER']}" in text
        assert environment["POSTGRES_PASSWORD_FILE"]
        assert "$POSTGRES_PASSWORD_FILE" in text
        assert environment["POSTGRES_DB"] == "autoslim"


def test_composes_commands_name_its_services_and_what_is_in_them(compose: dict[str, Any]) -> None:
    of_service = {name for name, service in compose["services"].items() if "service" in service.get("profiles", ())}
    begin = ["docker", "compose", "--file", "deploy/compose.yaml", "--profile", "service"]
    stopped, seen = list[set[str]](), set[str]()
    for words in sections("Compose"):
        if words[0] != "docker":
            continue
        assert words[:6] == begin
        verb, *rest = words[6:]
        seen.add(verb)
        if verb == "stop":
            stopped.append(set(rest))
        elif verb == "up":
            assert {word for word in rest if not word.startswith("-")} <= {"postgres"}
        else:
            flags = {"exec": ["-T"], "run": ["--rm", "--no-deps", "-T"]}[verb]
            assert rest[: len(flags)] == flags
            service = compose["services"][rest[len(flags)]]
            mounts = [re.sub(r"^.*:(/[^:]+)(:ro)?$", r"\1", volume) for volume in service["volumes"]]
            assert_fits(rest[len(flags) + 1 :], service["environment"], mounts)
            assert verb == "exec" or service["environment"]["AUTOSLIM_ROOT"] == "/runs/service"
    assert seen == {"stop", "exec", "run", "up"}
    # Whatever opens the database or runs a driver.
    assert stopped == [of_service - {"postgres"}] * 2


def test_the_charts_commands_name_its_objects_and_what_is_in_them() -> None:
    plain = list(yaml.safe_load_all((DEPLOY / "kuberay" / "service.yaml").read_text()))
    objects = {f"{item['kind'].lower()}/{item['metadata']['name']}": item for item in plain}
    pod = yaml.safe_load((DEPLOY / "kuberay" / "files.yaml").read_text())
    objects["autoslim-files"] = objects["pod/autoslim-files"] = pod
    by_verb: dict[str, list[list[str]]] = {}
    for tool, verb, *rest in (words for words in sections("the chart") if words[0] in ("kubectl", "helm")):
        by_verb.setdefault(f"{tool} {verb}", []).append(rest)
        words = rest[: rest.index("--")] if "--" in rest else rest
        named = [word for word in words if re.fullmatch(r"[a-z]+/[a-z-]+", word)]
        assert set(named) <= objects.keys(), rest
    assert by_verb.keys() == {"kubectl delete", "kubectl apply", "kubectl wait", "kubectl exec", "helm upgrade"}
    for target, *rest in ([word for word in words if word != "--stdin"] for words in by_verb["kubectl exec"]):
        found = objects[target]
        spec = found["spec"] if found["kind"] == "Pod" else found["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        environment = {entry["name"]: entry.get("value", "") for entry in container.get("env", ())}
        assert_fits(rest[1:], environment, [mount["mountPath"] for mount in container["volumeMounts"]])
    # Whatever opens the database, beside the drivers, which end with the Ray cluster.
    opens = {name for name, item in objects.items() if item["kind"] == "Deployment" and "AUTOSLIM_STORAGE" in json.dumps(item)}
    deleted = [words for words in by_verb["kubectl delete"] if words[0] != "--filename"]
    labels = [objects[name]["spec"]["template"]["metadata"]["labels"] for name in sorted(opens)]
    assert [each["app.kubernetes.io/component"] for each in labels] == ["api", "supervisor"]
    assert {each["app.kubernetes.io/instance"] for each in labels} == {"autoslim"}
    once = [
        [*sorted(opens), "raycluster/autoslim", "--ignore-not-found"],
        ["pod", "--selector", "app.kubernetes.io/instance=autoslim,app.kubernetes.io/component in (api, supervisor)"],
        ["pod", "--selector", "ray.io/cluster=autoslim"],
    ]
    assert deleted == once * 2
    for words in by_verb["kubectl apply"] + by_verb["helm upgrade"]:
        (path,) = (word for word in words if word.startswith("deploy/"))
        assert (ROOT / path).exists()


def test_the_pod_for_the_files_is_as_limited_as_others_and_its_volume_is_the_charts() -> None:
    pod = yaml.safe_load((DEPLOY / "kuberay" / "files.yaml").read_text())
    for version in ("1.27", "1.32"):
        kubernetes_validate.validate(pod, version, strict=True)
    assert_limited_and_unprivileged("files", pod["spec"])
    objects = {
        (item["kind"], item["metadata"]["name"]): item
        for name in ("service", "storage")
        for item in yaml.safe_load_all((DEPLOY / "kuberay" / f"{name}.yaml").read_text())
    }
    (volume,) = pod["spec"]["volumes"]
    assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in objects
    api = objects["Deployment", "autoslim-api"]["spec"]["template"]["spec"]
    assert pod["spec"]["securityContext"] == api["securityContext"]
    database = objects["StatefulSet", "autoslim-postgres"]["spec"]["template"]["spec"]
    assert pod["spec"]["containers"][0]["image"] == database["containers"][0]["image"]
