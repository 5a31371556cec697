"""What operators and their tools ask: health, readiness, capabilities, the documents, the log."""

from __future__ import annotations

import http.server
import io
import json
import logging
import resource
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from helpers.running_service import RunningService, running, settings_in

from autoslim.core.job import SAMPLER_NAMES
from autoslim.core.logs import JsonFormatter, job_id, redact, request_id
from autoslim.errors import RequestError
from autoslim.service.openapi import FILE, render
from autoslim.service.serve import secure_settings, serve
from autoslim.service.settings import read_settings
from autoslim.store import Keys


def test_health_needs_no_key(service: RunningService) -> None:
    with service.anybody() as nobody:
        assert nobody.get("/healthz").json() == {"status": "ok"}


def test_readiness_tells_the_state_of_every_dependency(tmp_path: Path) -> None:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as ray:
        threading.Thread(target=ray.serve_forever, daemon=True).start()
        urls = {"ray_dashboard_url": f"http://127.0.0.1:{ray.server_port}", "mlflow_url": "http://127.0.0.1:9"}
        with running(settings_in(tmp_path, **urls)) as small, small.anybody() as client:
            answer = client.get("/readyz")
            ray.shutdown()
    assert answer.status_code == 200
    assert answer.json() == {"ready": True, "dependencies": {"store": "ok", "ray": "ok", "mlflow": "unreachable"}}


def test_a_service_whose_store_is_gone_is_not_ready_and_says_so_without_its_address(tmp_path: Path) -> None:
    with running(settings_in(tmp_path)) as small, small.anybody() as client:
        assert client.get("/readyz").json()["dependencies"]["store"] == "ok"
        broken = small.server._app.state.autoslim.queue
        broken.close()
        broken._database._engine = _engine_that_fails(tmp_path)
        ready, asked = client.get("/readyz"), client.get("/v1/jobs")
    assert (ready.status_code, ready.json()["dependencies"]["store"]) == (503, "unreachable")
    assert (asked.status_code, asked.json()["code"]) == (503, "store-unavailable")
    assert "retry-after" in asked.headers
    assert str(tmp_path) not in asked.text


def _engine_that_fails(folder: Path):  # type: ignore[no-untyped-def]
    import sqlalchemy as sa

    return sa.create_engine(f"sqlite:///{folder / 'no' / 'such' / 'folder.db'}")


@pytest.mark.slow
@pytest.mark.short
def test_a_service_that_cannot_write_is_not_ready_and_is_again_when_it_can(tmp_path: Path) -> None:
    """A limit of file sizes of 0 refuses every write, as a full disk does."""
    command = [sys.executable, "-m", "autoslim.cli", "serve", "--no-supervisor", "--port", "0", "--root", str(tmp_path / "root")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        try:
            assert httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
            no_limit = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, no_limit[1]))
            full = httpx.get(f"{url}/readyz", trust_env=False, timeout=30)
            assert (full.status_code, full.json()["ready"]) == (503, False)
            assert full.json()["dependencies"]["store"] == "not writable"
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, no_limit)
            assert httpx.get(f"{url}/readyz", trust_env=False, timeout=30).status_code == 200
        finally:
            process.terminate()


@pytest.mark.slow
@pytest.mark.short
def test_capabilities_are_what_a_spec_may_ask_for(client: httpx.Client) -> None:
    told = client.get("/v1/capabilities").json()
    assert "deit_small_patch16_224" in told["models"]
    assert "resnet50" not in told["models"]
    assert {method["name"] for method in told["methods"]} >= {"vit_slim", "sit", "dps"}
    assert {"default", "smoke"} <= set(told["spaces"])
    assert told["datasets"] == ["digits", "flowers"]
    assert told["limits"]["trials"] == 1000
    assert told["samplers"] == list(SAMPLER_NAMES)
    assert told["paths"] is True


def test_the_committed_openapi_is_current() -> None:
    assert FILE.read_text() == render(), "python -m autoslim.service.openapi writes it"


def test_the_openapi_is_served_and_no_page_that_loads_scripts(service: RunningService) -> None:
    with service.anybody() as nobody:
        assert nobody.get("/v1/openapi.json").json() == json.loads(FILE.read_text())
        for path in ("/docs", "/redoc", "/"):
            assert nobody.get(path).status_code == 404


def test_the_built_in_data_sets_are_those_of_the_data_package() -> None:
    from autoslim.data.sources import BUILTIN
    from autoslim.service import catalog

    assert catalog.BUILTIN == BUILTIN


def test_the_service_itself_needs_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import autoslim.service.serve, sys; print([n for n in ('torch', 'timm', 'numpy', 'ray', 'mlflow') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_log_line_is_json_with_its_ids_and_without_secrets() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("autoslim.test_log")
    logger.propagate = False
    logger.addHandler(handler)
    tokens = request_id.set("r1"), job_id.set("j1")
    try:
        raise RequestError("postgresql://autoslim:canary@db/x and Bearer canary")
    except RequestError:
        logger.exception("key autoslim_0123456789abcdef_canary refused", extra={"tenant": "t", "address": "http://u:canary@h/"})
    finally:
        request_id.reset(tokens[0])
        job_id.reset(tokens[1])
        logger.removeHandler(handler)
    (line,) = stream.getvalue().splitlines()
    told = json.loads(line)
    assert (told["request_id"], told["job_id"], told["tenant"], told["level"]) == ("r1", "j1", "t", "error")
    assert "RequestError" in told["traceback"]
    assert "canary" not in line


def test_redacting_leaves_what_is_no_secret() -> None:
    assert redact("job 01ABC of autoslim_jobs at sqlite:////data/x.db") == "job 01ABC of autoslim_jobs at sqlite:////data/x.db"


def test_settings_come_from_flags_environment_file_and_defaults_in_this_order(tmp_path: Path) -> None:
    file = tmp_path / "service.yaml"
    file.write_text("storage: sqlite:////file.db\nroot: /file\nlimits: {trials: 7}\npretrained: false\n")
    environment = {"AUTOSLIM_ROOT": "/environment", "AUTOSLIM_DATA_ROOTS": "/a:/b", "AUTOSLIM_OTHER": "x"}
    settings = read_settings(file, environ=environment, flags={"storage": "sqlite:////flag.db", "mlflow_url": None})
    assert (settings.storage, settings.root) == ("sqlite:////flag.db", Path("/environment"))
    assert settings.data_roots == (Path("/a"), Path("/b"))
    assert (settings.limits.trials, settings.limits.budgets, settings.pretrained) == (7, 16, False)


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"keys_required is 'perhaps'"):
        read_settings(environ={"AUTOSLIM_KEYS_REQUIRED": "perhaps"}, flags={"storage": "sqlite:////x.db", "root": "/x"})
    file = tmp_path / "service.yaml"
    file.write_text("storage: sqlite:////x.db\nroot: /x\nlimit: {}\n")
    with pytest.raises(RequestError, match=r"limit is not a field.*did you mean limits"):
        read_settings(file, environ={})


def test_the_storages_password_is_not_shown() -> None:
    settings = read_settings(environ={}, flags={"storage": "postgresql://u:canary@db/x", "root": "/x"})
    assert "canary" not in repr(settings)


def test_another_address_than_loopback_needs_a_key_first(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    for host in ("127.0.0.1", "localhost", "::1"):
        assert secure_settings(settings, host=host, insecure=False) == settings
    for host in ("0.0.0.0", "192.168.1.5", "::", "example.org"):
        with pytest.raises(RequestError, match=f"does not listen on {host} without API keys"):
            secure_settings(settings, host=host, insecure=False)
        assert secure_settings(settings, host=host, insecure=True).keys_required is False
    with Keys(settings.storage) as keys:
        keys.create(tenant="t", scopes=["read"], name="n")
        revoked = keys.list()[0].id
    opened = secure_settings(settings, host="192.168.1.5", insecure=False)
    assert opened.keys_required
    assert "192.168.1.5" in opened.allowed_hosts
    with Keys(settings.storage) as keys:
        keys.revoke(revoked)
    # It may start without a usable key: it is closed.
    assert secure_settings(settings, host="192.168.1.5", insecure=False).keys_required


def test_a_request_has_an_id_that_the_client_may_give(client: httpx.Client) -> None:
    assert client.get("/v1/jobs", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    made = [client.get("/v1/jobs").headers["x-request-id"] for _ in range(2)]
    assert made[0] != made[1]


def test_links_lead_to_mlflow_and_ray_where_the_operator_names_them(tmp_path: Path) -> None:
    import helpers.sample_search as sample

    from autoslim.store import TrackedRun

    urls = {"ray_dashboard_url": "http://ray.example:8265/", "mlflow_url": "http://mlflow.example"}
    with running(settings_in(tmp_path, **urls)) as small, small.anybody() as client:
        job = small.put("local")
        assert client.get(f"/v1/jobs/{job.id}").json()["links"]["ray"] is None
        small.queue.claim("test", 60)
        sample.fill(small.store, sample.make_job(id=job.id))
        small.store.set_tracked(job.id, "somewhere", TrackedRun(entity="job", run_id="abc"))
        links = client.get(f"/v1/jobs/{job.id}").json()["links"]
    assert links["ray"] == f"http://ray.example:8265/#/jobs/{job.id}-a1"
    assert links["mlflow"] == "http://mlflow.example/#/runs/abc"


def test_what_is_submitted_is_not_lost_when_the_service_ends(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with running(settings) as first, first.anybody() as client:
        job = client.get(f"/v1/jobs/{first.put('local').id}").json()
    with running(settings) as second, second.anybody() as client:
        assert client.get(job["links"]["self"]).json() == job


def test_answers_on_a_kept_connection_do_not_wait_for_acknowledgements(service: RunningService, client: httpx.Client) -> None:
    client.get("/healthz")
    connections = list(service.server.server_state.connections)
    assert connections
    for connection in connections:
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), "Nagle's algorithm is on: every answer takes 40 ms"


def test_an_address_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(RequestError, match="cannot listen on"):
        serve(settings_in(tmp_path), port=taken.getsockname()[1])
    with pytest.raises(RequestError, match="cannot listen on"):
        serve(settings_in(tmp_path), port=99_999)
