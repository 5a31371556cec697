"""The commands that speak to the service, against a real one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.driven_job import MODEL, DrivenJob
from helpers.running_service import RunningService, running, settings_in

Command = Callable[..., tuple[int, str, str]]
REQUEST = ["--model", "deit_tiny_patch16_224", "--from-scratch", "--image-size", "16"]
REQUEST += ["--model-args", "patch_size=4,embed_dim=32,depth=4,num_heads=2", "--data", "digits"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running(settings_in(tmp_path_factory.mktemp("service"))) as service:
        yield service


@pytest.fixture
def tenant(service: RunningService, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Who the commands of this test act for."""
    tenant = re.sub(r"[^a-z0-9]+", "-", request.node.originalname)[-60:].strip("-")
    monkeypatch.setenv("AUTOSLIM_URL", service.url)
    monkeypatch.setenv("AUTOSLIM_KEY", service.key(tenant=tenant))
    monkeypatch.setenv("AUTOSLIM_CONFIG", str(tmp_path / "no.toml"))
    return tenant


@pytest.fixture
def job(service: RunningService, tenant: str) -> DrivenJob:
    """One that has begun."""
    return DrivenJob(service, service.put(tenant, name="flowers", priority=9).id)


@pytest.mark.slow
@pytest.mark.short
def test_submitting_prints_the_id_and_nothing_else_to_stdout(autoslim: Command, tenant: str):
    (code, out, err) = autoslim("submit", *REQUEST, "--flops", "50%", "--name", "digits", "--idempotency-key", "k")
    assert code == 0, err
    assert re.fullmatch(r"[0-9A-Z]{26}\n", out)
    assert f"autoslim attach {out.strip()}" in err
    again = autoslim("submit", *REQUEST, "--flops", "50%", "--name", "digits", "--idempotency-key", "k", "--json")[1]
    assert json.loads(again)["id"] == out.strip()
    code, out, err = autoslim("submit", *REQUEST, "--flops", "50%", "--dry-run")
    assert (code, "vit_slim" in out, "958.9K multiply-accumulates" in out) == (0, True, True), err
    assert len(json.loads(autoslim("jobs", "--json")[1])) == 1


@pytest.mark.slow
@pytest.mark.short
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([*REQUEST, "--flops", "1%"], 3, "--flops is '1%'"),
        ([*REQUEST, "--flops", "50%", "--data", "digts"], 2, "--data is 'digts'; did you mean digits"),
        (["job.yaml", "--flops", "50%"], 2, "job.yaml: data is 'nowhere'; allowed: digits"),
        (["job.yaml", "--trials", "0"], 2, "--trials is 0; allowed: 1 and more"),
        ([*REQUEST, "--flops", "50%", "--address", "auto"], 2, "No such option: --address"),
    ],
)
def test_mistakes_are_told_where_they_were_made(
    autoslim: Command, tenant: str, tmp_path: Path, arguments: list[str], code: int, said: str
):
    (tmp_path / "job.yaml").write_text("model: deit_tiny_patch16_224\nweights: scratch\ndata: nowhere\nflops: 50%\n")
    ended, out, err = autoslim("submit", *arguments)
    assert (ended, out) == (code, ""), err
    assert said in err


def test_a_service_that_is_not_there_or_not_open_is_exit_code_4(autoslim: Command, tenant: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("autoslim.client.retry._FIRST_DELAY", 0.0)
    code, _, err = autoslim("jobs", "--url", "http://127.0.0.1:1")
    assert (code, "http://127.0.0.1:1 cannot be reached" in err) == (4, True)
    monkeypatch.delenv("AUTOSLIM_KEY")
    assert autoslim("jobs")[0] == 4


def test_a_job_is_found_by_id_beginning_name_or_for_being_the_newest(autoslim: Command, service: RunningService, tenant: str):
    ids = [service.put(tenant, name=name).id for name in ("roses", "tulips")]
    for text in (ids[0], ids[0][:25].lower() + ids[0][25:].lower(), "roses"):
        assert json.loads(autoslim("show", text, "--json")[1])["id"] == ids[0]
    assert json.loads(autoslim("show", "--json")[1])["id"] == ids[1]
    for text, said in (
        ("rosse", "did you mean roses?"),
        (ids[0][:-1] + ("0" if ids[0][-1] != "0" else "1"), f"did you mean {ids[0]}"),
        ("zzz", "the newest are: tulips, roses"),
        (ids[0][:6], "2 job ids start with"),
    ):
        code, _, err = autoslim("show", text)
        assert (code, said in err) == (2, True), err


def test_jobs_of_one_name_are_told_apart(autoslim: Command, service: RunningService, tenant: str):
    older, newer = (service.put(tenant, name="roses").id for _ in range(2))
    code, out, err = autoslim("show", "roses", "--json")
    assert (code, json.loads(out)["id"]) == (0, newer), err
    assert f"2 jobs are named roses: taken is the newest of {newer} (QUEUED, submitted " in err
    assert older in err
    code, _, err = autoslim("cancel", "roses")
    assert (code, "2 jobs are named roses and have not ended; give the id of one: " in err) == (2, True), err
    assert autoslim("cancel", newer)[0] == 0
    assert autoslim("cancel", "roses")[1].startswith(older)


def test_jobs_are_listed_with_where_they_stand(autoslim: Command, service: RunningService, tenant: str, job: DrivenJob):
    job.search()
    waiting = service.put(tenant).id
    code, out, _ = autoslim("jobs")
    assert code == 0
    head, first, second = out.splitlines()
    assert head.split() == ["ID", "NAME", "STATE", "TRIALS", "BEST", "CREATED"]
    assert re.fullmatch(rf"{waiting} +QUEUED \((the next to begin|\d+ ahead)\) +0/24 .*", first)
    assert second.split()[:3] == [job.id, "flowers", "SEARCHING"]
    assert "\x1b" not in out
    assert autoslim("jobs", "--state", "searching", "--name", "flowers")[1].splitlines()[1].startswith(job.id)
    code, _, err = autoslim("jobs", "--state", "DONE")
    assert (code, "--state is 'DONE'; allowed: QUEUED" in err) == (2, True)


def test_attaching_tells_what_happens_and_ends_as_the_job_does(autoslim: Command, tenant: str, job: DrivenJob):
    ending = threading.Thread(target=lambda: (time.sleep(0.5), job.search(), job.succeed()))
    ending.start()
    code, out, err = autoslim("attach", "flowers")
    ending.join()
    assert code == 0, err
    for said in (
        "SEARCHING",
        "trial 0 sit accuracy 88.0% at 477K",
        "best within 50%: accuracy 88.0%",
        "trial 1 dps failed: the loss",
    ):
        assert said in err
    assert re.search(r"50% +vit_slim \(trial 3\) +478K +99.69% +0.03 M +91.20 +90.50", out)
    assert f"autoslim pull {job.id}" in out
    (model,) = json.loads(autoslim("attach", "flowers", "--json")[1])["result"]["models"]
    assert {key: value for key, value in model.items() if value is not None} == MODEL


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        (lambda job: job.fail("INFEASIBLE"), 3, "INFEASIBLE: no trial was within 50%"),
        (lambda job: job.fail("BUG", "it broke", "autoslim logs X"), 1, "autoslim logs X"),
        (lambda job: (job.search(), job.succeed(missing=["40%"])), 3, "40%: no trial was completed within this budget"),
    ],
)
def test_a_job_that_ends_otherwise_has_its_exit_code_and_says_what_to_do(
    autoslim: Command, tenant: str, job: DrivenJob, end: Callable[[DrivenJob], None], code: int, said: str
):
    end(job)
    ended, out, err = autoslim("attach", job.id)
    assert (ended, said in out) == (code, True), err


@pytest.mark.parametrize("command", [["attach"], ["logs", "-f"]])
def test_ctrl_c_detaches_and_the_job_goes_on(service: RunningService, tenant: str, job: DrivenJob, command: list[str]):
    job.log("a line of its log\n")
    job.search()
    process = subprocess.Popen(
        [sys.executable, "-m", "autoslim.cli", *command, job.id],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # A shell's background jobs ignore the signal, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None and process.stdout is not None
    wanted, stream = ("best within", process.stderr) if command == ["attach"] else ("a line", process.stdout)
    while wanted not in stream.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"Detached; the job continues.  autoslim attach {job.id} | autoslim logs -f {job.id} | autoslim cancel {job.id}" in err
    assert service.queue.get(job.id).state == "SEARCHING"


def test_logs_cancel_and_pull(autoslim: Command, service: RunningService, tenant: str, job: DrivenJob, tmp_path: Path):
    code, _, err = autoslim("logs", "flowers")
    assert (code, "does not have a log yet; it is STARTING" in err) == (2, True)
    job.log("a line\n")
    assert autoslim("logs", "flowers") == (0, "a line\n", "")
    assert autoslim("logs", "flowers", "--json") == (0, '{"message": "a line"}\n', "")
    assert "does not have an attempt 7" in autoslim("logs", "flowers", "--attempt", "7")[2]
    code, out, err = autoslim("cancel", "flowers")
    assert (code, out, "is stopping" in err) == (0, f"{job.id} STARTING\n", True)
    assert service.queue.get(job.id).cancel_requested_at is not None
    job.finalize_models({"README.md": b"# card\n"})
    code, out, err = autoslim("pull", "flowers", "--budget", "50%", "-o", "mine")
    assert (code, out) == (0, f"{tmp_path / 'mine'}\n"), err
    told = json.loads(autoslim("pull", "flowers", "--json")[1])
    assert (told["folder"], told["files"]) == (str(tmp_path / "flowers"), ["models/50%/README.md", "models/50%/SHA256SUMS"])
    assert autoslim("show", "flowers", "--trials", "--json")[:2] == (0, "[]\n")


def test_keys_are_made_listed_and_revoked(autoslim: Command, tmp_path: Path):
    here = ("--root", str(tmp_path / "root"))
    code, key, err = autoslim(
        "keys", "create", "--tenant", "vision", "--scope", "read", "--expires", "90d", "--name", "laptop", *here
    )
    assert code == 0, err
    assert re.fullmatch(r"autoslim_[0-9a-f]{16}_\S{43}\n", key)
    (row,) = json.loads(autoslim("keys", "list", "--json", *here)[1])
    assert (row["tenant"], row["scopes"], row["name"]) == ("vision", ["read"], "laptop")
    assert row["expires_at"] > row["created_at"]
    assert key.split("_")[2].strip() not in json.dumps(row)
    assert row["id"] in autoslim("keys", "list", *here)[1]
    assert autoslim("keys", "revoke", key.strip(), *here)[0] == 0
    (row,) = json.loads(autoslim("keys", "list", "--tenant", "vision", "--json", *here)[1])
    assert row["revoked_at"] is not None
    for arguments, said in (
        (["create", "--expires", "soon"], "--expires is 'soon'; allowed: weeks, days, hours, minutes and seconds"),
        (["create", "--scope", "root"], "are not allowed: one or more of read, submit, admin"),
        (["revoke", "0123456789abcdef"], "there is no key"),
    ):
        code, _, err = autoslim("keys", *arguments, *here)
        assert (code, said in err) == (2, True), err


def test_the_service_is_opened_and_closed_by_commands_that_say_what_they_do(autoslim: Command, tmp_path: Path):
    here = ("--root", str(tmp_path / "root"))
    assert autoslim("admin", "access", *here)[1].startswith("open: whoever is on this machine needs no API key")
    key = autoslim("keys", "create", *here)[1].strip()
    assert autoslim("admin", "access", *here)[1] == "closed: every request needs an API key\n"
    code, _, err = autoslim("admin", "open", "--yes", *here)
    assert (code, "while 1 of its keys may be used" in err) == (2, True), err
    assert "No key is left that may be used, and the service stays closed" in autoslim("keys", "revoke", key, *here)[2]
    assert json.loads(autoslim("admin", "access", "--json", *here)[1]) == {"access": "closed", "usable_keys": 0}
    code, _, err = autoslim("admin", "open", *here)
    assert (code, "delete jobs of the tenant 'local' without a key (0 now). To do that: autoslim admin open --yes" in err) == (
        2,
        True,
    ), err
    assert json.loads(autoslim("admin", "access", "--json", *here)[1])["access"] == "closed"
    code, _, err = autoslim("admin", "open", "--yes", *here)
    assert (code, "the service is open" in err) == (0, True), err
    assert json.loads(autoslim("admin", "access", "--json", *here)[1])["access"] == "open"
    code, _, err = autoslim("admin", "close", *here)
    assert (code, "is closed: every request needs an API key; no key may be used now" in err) == (0, True), err


def test_the_files_of_the_service_are_its_owners_alone(autoslim: Command, tmp_path: Path):
    root = tmp_path / "root"
    # As an earlier version left it, in a process that is open to others.
    (root / "jobs").mkdir(parents=True)
    for folder in (root, root / "jobs"):
        folder.chmod(0o755)
    assert autoslim("keys", "create", "--root", str(root))[0] == 0
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(oct(os.umask(0)))"], capture_output=True, text=True, check=True
    )
    assert child.stdout.strip() == "0o77"
    modes = {path.relative_to(tmp_path).as_posix(): path.stat().st_mode & 0o777 for path in (root, *root.rglob("*"))}
    assert modes["root"] == modes["root/jobs"] == 0o700
    assert modes["root/autoslim.db"] == 0o600
    assert {mode & 0o077 for mode in modes.values()} == {0}


def supervise(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "autoslim.cli", "supervise", "--until-stdin-ends", "--root", str(root), *options]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
@pytest.mark.short
def test_a_supervisor_runs_as_a_process_until_its_standard_input_ends(tmp_path: Path):
    ended = supervise(tmp_path / "root", "--concurrency", "2", "--resources", "cpu=1", "--lease-seconds", "30")
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False), ended.stderr
    assert (tmp_path / "root").is_dir()


@pytest.mark.parametrize(
    ("flag", "value"), [("--concurrency", "0"), pytest.param("--lease-seconds", "0", marks=pytest.mark.slow)]
)
def test_a_mistake_in_a_supervisors_settings_names_the_flag(tmp_path: Path, flag: str, value: str):
    refused = supervise(tmp_path / "root", flag, value)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"autoslim: {flag} is {value}"), refused.stderr


@pytest.mark.slow
@pytest.mark.short
def test_the_service_runs_as_a_process_and_stops_in_order(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-m", "autoslim.cli", "serve", "--no-supervisor", "--port", "0", "--root", str(tmp_path / "root")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    from autoslim.client import Client

    with Client(url) as client:
        assert client.ready()["ready"]
        assert list(client.jobs()) == []
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (0, 130), err
    assert f"autoslim is at {url}" in err
    assert "It is open: whoever is on this machine needs no API key" in err
    assert "Traceback" not in err
