"""Attacks by another tenant, or by somebody without a key, beside a tenant's job."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import resource
import select
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

from faults.case import Case, Stage
from faults.service import Service
from faults.user import SPEC

# Seconds for which an attack goes on.
_LASTING = 20.0
# Half-sent requests: more than all connections that the service has by default.
_CONNECTIONS = 2050
_HALF_HEADERS = b"GET /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: "
_HALF_BODY = b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n{"
_DEAR: dict[str, Any] = {
    "model": "deit_tiny_patch16_224",
    "weights": "scratch",
    "data": "digits",
    "model_args": {"embed_dim": 384, "depth": 64, "num_heads": 6, "patch_size": 8},
    "image_size": 512,
}

# Requests that are sent by halves


def _half_sent(stage: Stage, requests: Callable[[], bytes]) -> str:
    """Connections that are closed are opened again, as fast as one process can."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2 * _CONNECTIONS), hard) if hard > 0 else (2 * _CONNECTIONS, hard))
    answers: Counter[str] = Counter()
    held: dict[int, socket.socket] = {}
    poll = select.poll()
    deadline = time.monotonic() + _LASTING
    try:
        while time.monotonic() < deadline:
            while len(held) < _CONNECTIONS and time.monotonic() < deadline:
                with contextlib.suppress(OSError):
                    connection = _opened(stage, requests())
                    held[connection.fileno()] = connection
                    poll.register(connection, select.POLLIN | select.POLLHUP)
            for descriptor, _ in poll.poll(100):
                poll.unregister(descriptor)
                with held.pop(descriptor) as connection, contextlib.suppress(OSError):
                    answers[connection.recv(65536).split(b"\r\n")[0][9:].decode() or "closed"] += 1
    finally:
        for connection in held.values():
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return _counted(answers)


def _opened(stage: Stage, request: bytes) -> socket.socket:
    """From one of fifty addresses of this machine: a limit of an address alone would not help."""
    source = f"127.0.1.{random.randrange(1, 51)}"
    connection = socket.create_connection(("127.0.0.1", stage.service.port), timeout=5, source_address=(source, 0))
    connection.sendall(request)
    return connection


def _slow_headers(stage: Stage) -> str:
    return _half_sent(stage, lambda: _HALF_HEADERS)


def _slow_bodies(stage: Stage) -> str:
    """In turn with a key and a body that may be sent, and without a key and with a body that is too large."""
    key = f"Authorization: Bearer {stage.theirs}\r\n".encode()
    requests = itertools.cycle((_HALF_BODY % (1000, key), _HALF_BODY % (10**9, b"")))
    return _half_sent(stage, lambda: next(requests))


# Plans


def _dear_plans(stage: Stage) -> str:
    """Sixteen requests at a time for plans of the dearest model that is allowed; the user asks for plans of its own beside them."""
    answers: Counter[str] = Counter()
    deadline, numbers = time.monotonic() + _LASTING, itertools.count(1)
    alone = _plan_seconds(stage, 3000)
    attackers = [threading.Thread(target=_ask_for_plans, args=(stage, deadline, numbers, answers)) for _ in range(16)]
    for attacker in attackers:
        attacker.start()
    time.sleep(2.0)
    beside = _plan_seconds(stage, 4000)
    for attacker in attackers:
        attacker.join()
    return f"{_counted(answers)}; the user's own plans took {alone:.2f} s before and {beside:.2f} s beside it (medians of five)"


def _ask_for_plans(stage: Stage, deadline: float, numbers: Iterator[int], answers: Counter[str]) -> None:
    headers = {"Authorization": f"Bearer {stage.theirs}"}
    with httpx.Client(base_url=stage.service.url, headers=headers, timeout=90, trust_env=False) as client:
        while time.monotonic() < deadline:
            answer = client.post("/v1/plans", json=_DEAR | {"flops": [f"{30 + next(numbers) % 6000 / 100:.2f}%"]})
            answers[_short(answer)] += 1
            if answer.status_code == 429:
                time.sleep(0.2)


def _plan_seconds(stage: Stage, first: int) -> float:
    seconds = []
    for number in range(first, first + 5):
        began = time.monotonic()
        stage.user.http.post("/v1/plans", json=SPEC | {"flops": [f"{number / 100:.2f}%"]}, timeout=120).raise_for_status()
        seconds.append(time.monotonic() - began)
    return statistics.median(seconds)


# Keys


def _revoked(stage: Stage) -> str:
    """Every key is revoked; then somebody without a key tries what only its tenant may. The operator gives the tenant a new key."""
    key = stage.user.http.headers["Authorization"].removeprefix("Bearer ")
    stage.service.autoslim("keys", "revoke", key)
    for other in json.loads(stage.service.autoslim("keys", "list", "--json")):
        if other["revoked_at"] is None:
            stage.service.autoslim("keys", "revoke", other["id"])
    answers: Counter[str] = Counter()
    job = f"/v1/jobs/{stage.user.job['id']}"
    with httpx.Client(base_url=stage.service.url, trust_env=False, timeout=30) as nobody:
        for method, path in (
            ("GET", "/v1/jobs"),
            ("GET", job),
            ("POST", f"{job}:cancel"),
            ("DELETE", job),
            ("GET", f"{job}/logs"),
        ):
            answers[_short(nobody.request(method, path))] += 1
    time.sleep(3.0)
    stage.user.http.headers["Authorization"] = f"Bearer {stage.service.new_key('mine')}"
    return f"{_counted(answers)} without a key"


# What a request may name and hold


@contextlib.contextmanager
def _with_data(folder: Path) -> Iterator[Service]:
    """A service whose data root has links that lead out of it, and a Parquet file that unpacks to thousands of times its size."""
    outside, data = folder / "outside", folder / "data"
    for each in (outside, data / "linked", data / "images" / "train", data / "bomb"):
        each.mkdir(parents=True)
    pq.write_table(pa.table({"image": pa.array([b"x"] * 10), "label": pa.array([0, 1] * 5)}), outside / "train.parquet")
    (data / "linked" / "train.parquet").symlink_to(outside / "train.parquet")
    (data / "images" / "train" / "a").symlink_to(outside)
    (data / "away").symlink_to(outside)
    images = pa.StructArray.from_arrays([pa.array([bytes(2**22)] * 64), pa.nulls(64, pa.string())], ["bytes", "path"])
    rows = pa.table({"image": images, "label": pa.array([0, 1] * 32)})
    pq.write_table(rows, data / "bomb" / "train.parquet", use_dictionary=False, compression="zstd")
    (data / "weights.pkl").write_bytes(b"\x80\x04cos\nsystem\n(S'touch pickled'\ntR.")
    with Service(folder, options=("--data-root", str(data), "--model-root", str(data))).running() as service:
        yield service


def _hostile(stage: Stage) -> str:
    """Every request is one that has to be refused, and none may say where anything is."""
    here = f"/v1/jobs/{stage.user.job['id']}"
    answers: Counter[str] = Counter()
    headers = {"Authorization": f"Bearer {stage.theirs}"}
    with httpx.Client(base_url=stage.service.url, headers=headers, timeout=120, trust_env=False) as client:
        for changes in _hostile_specs():
            answers[_refusal(client.post("/v1/plans", json=SPEC | changes), stage)] += 1
        for body in (b"[" * 10**5, b'{"a":' * 10**5, b'{"model": 1, "model": 2}', b"\xff\xfe", b" " * 2**21):
            answers[_refusal(client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"}), stage)] += 1
        for method, path in (("GET", here), ("POST", f"{here}:cancel"), ("DELETE", here), ("GET", f"{here}/events")):
            answers[_refusal(client.request(method, path), stage)] += 1
        for path in ("../../../autoslim.db", "%2e%2e/%2e%2e/autoslim.db", "models/../../../../etc/passwd"):
            answers[_refusal(client.get(f"{here}/artifacts/{path}"), stage)] += 1
    return _counted(answers)


def _hostile_specs() -> list[dict[str, Any]]:
    return [
        *(
            {"data": name}
            for name in ("linked", "images", "away", "bomb", "../outside", "/etc", "x" * 300, "http://127.0.0.1:1/x")
        ),
        *({"weights": name} for name in ("weights.pkl", "../outside/w.safetensors", "http://127.0.0.1:1/x.safetensors")),
        *({"model": name} for name in ("hf-hub:a/b", "../outside", "linked")),
        {"model_args": {"norm_layer": "os.system"}},
        {"model_args": {"patch_size": 1, "depth": 64}, "image_size": 1024},
        {"batch_size": 10**9},
        {"trials": 10**9},
        {"space": {"methods": {str(number): {} for number in range(5000)}}},
        {"reuse": ["01M8J1KKTBQBVS2WN2PR9HY97C"]},
        {"params": "1"},
    ]


def _refusal(answer: httpx.Response, stage: Stage) -> str:
    if str(stage.folder) in answer.text:
        return f"{answer.status_code} WITH A PATH OF THE SERVER"
    return (
        _short(answer)
        if 400 <= answer.status_code < 500
        else f"{answer.status_code} NOT REFUSED: {answer.request.content[:200]!r}"
    )


def _short(answer: httpx.Response) -> str:
    return str(answer.status_code) if answer.is_success else f"{answer.status_code} {answer.json()['code']}"


def _counted(answers: Counter[str]) -> str:
    return ", ".join(f"{count} times {what}" for what, count in answers.most_common()) or "nothing"


CASES = [
    Case(f"{_CONNECTIONS} requests without the end of their headers, for {_LASTING:.0f} s", _slow_headers, tenants=True),
    Case(f"{_CONNECTIONS} requests without the end of their body, for {_LASTING:.0f} s", _slow_bodies, tenants=True),
    Case(f"dear plans of a neighbour, for {_LASTING:.0f} s", _dear_plans, tenants=True),
    Case("every key revoked, the tenant's replaced", _revoked, tenants=True),
    Case(
        "links, traversal, bombs, pickles, addresses and other tenants' jobs in requests", _hostile, host=_with_data, tenants=True
    ),
]
