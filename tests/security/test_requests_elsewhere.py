"""The service asks no address that a tenant gives, and no file that a tenant names runs code."""

from __future__ import annotations

import pickle
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import torch
from helpers.marks import CI_ONLY
from helpers.running_service import SPEC, RunningService

from autoslim.errors import WeightsError
from autoslim.models.weights_file import read_state_dict

pytestmark = CI_ONLY


@pytest.fixture(scope="module")
def trap() -> Iterator[tuple[str, list[bytes]]]:
    """An address on loopback, and what was sent to it."""
    heard: list[bytes] = []

    class Listen(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            heard.append(self.request.recv(1000))

    with socketserver.TCPServer(("127.0.0.1", 0), Listen) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}", heard
        server.shutdown()


ADDRESSES = [
    "http://{trap}/x",
    "https://{trap}/x.safetensors",
    "HTTP://{trap}/x",
    "//{trap}/x",
    "ftp://{trap}/x",
    "s3://{trap}/x",
    "gs://bucket/x",
    "file:///etc/passwd",
    "hdfs://{trap}/x",
    "http://169.254.169.254/latest/meta-data/iam/security-credentials/",
    "http://[fd00:ec2::254]/latest",
    "http://metadata.google.internal/computeMetadata/v1/",
    "hf-hub:{trap}/x",
    "hf_hub:org/model",
    "hf-hub:timm/vit_tiny_patch16_224",
    "local-dir:/etc",
    "local-dir:../outside",
    "org/dataset",
    "\\\\{trap}\\share",
]


@pytest.mark.parametrize("field", ["data", "model", "weights", "space", "webhook"])
@pytest.mark.parametrize("address", ADDRESSES)
def test_no_address_is_asked(client: httpx.Client, trap: tuple[str, list[bytes]], field: str, address: str) -> None:
    where, heard = trap
    for path in ("/v1/jobs", "/v1/plans"):
        answer = client.post(path, json=SPEC | {field: address.replace("{trap}", where)})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-spec")
        assert [error["pointer"] for error in answer.json()["errors"]] == [f"/{field}"]
    assert heard == []


def test_the_trap_would_have_heard_it(trap: tuple[str, list[bytes]]) -> None:
    where, heard = trap
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://{where}/x", trust_env=False, timeout=5)
    assert heard.pop().startswith(b"GET /x")


class _Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.canary,)


@pytest.mark.parametrize("name", ["evil.pth", "evil.pt", "evil.bin", "evil.safetensors", "evil.pkl", "evil.py"])
def test_a_pickle_as_weights_is_never_run(service: RunningService, client: httpx.Client, tmp_path: Path, name: str) -> None:
    canary, file = tmp_path / "canary", service.settings.model_roots[0] / name
    torch.save({"head.weight": _Evil(canary)}, file)
    answer = client.post("/v1/jobs", json=SPEC | {"weights": str(file)})
    # One that has a weights file's name is left to the driver, which reads tensors and nothing else.
    assert answer.status_code == (422 if name.endswith((".pkl", ".py")) else 201), answer.text
    with pytest.raises(WeightsError):
        read_state_dict(file)
    assert not canary.exists()
    pickle.loads(pickle.dumps(_Evil(canary)))
    assert canary.exists(), "the canary would have sung"


def test_a_model_folder_cannot_name_code_or_another_folder(service: RunningService, client: httpx.Client) -> None:
    folder = service.settings.model_roots[0] / "evil-model"
    folder.mkdir()
    for config in (
        '{"architecture": "local-dir:/etc"}',
        '{"architecture": "hf-hub:org/model"}',
        '{"architecture": "os.system"}',
        '{"architecture": ["deit_tiny_patch16_224"]}',
        "not json",
        "[" * 100_000,
    ):
        (folder / "config.json").write_text(config)
        answer = client.post("/v1/plans", json=SPEC | {"model": str(folder), "model_args": {}, "seed": len(config)})
        assert answer.status_code == 422, (config[:50], answer.text)


@pytest.mark.parametrize(
    "arguments",
    [
        {"pretrained": True},
        {"pretrained_cfg": "x"},
        {"checkpoint_path": "/etc/passwd"},
        {"block_fn": "os.system"},
        {"norm_layer": "os.system"},
        {"act_layer": "__import__('os').system('id')"},
        {"embed_layer": "x"},
        {"cache_dir": "/tmp"},
        {"scriptable": True},
        {"num_classes": 10**9},
        {"img_size": 10**6},
        {"depth": 10**6},
        {"embed_dim": 2**40},
        {"patch_size": 0},
        {"patch_size": [4, 4, 4]},
        {"mlp_ratio": 1e9},
        {"depth": True},
        {"depth": 4.5},
        {"depth": "4"},
        {"qkv_bias": 1},
    ],
)
def test_arguments_of_a_model_are_those_of_a_list_and_bounded(client: httpx.Client, arguments: dict[str, object]) -> None:
    answer = client.post("/v1/jobs", json=SPEC | {"model_args": arguments})
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [f"/model_args/{name}" for name in arguments]
