"""A real search tells its webhook of each best trial and of its end, once, and keeps the secret to itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.webhook_receiver import KEY, SECRET, Receiver, is_signed, receiving

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

SMALL = (
    *("--model", "deit_tiny_patch16_224", "--from-scratch", "--image-size", "16", "--data", "digits", "--flops", "60%"),
    *("--model-args", "patch_size=4,embed_dim=32,depth=3,num_heads=2", "--space", "smoke", "--trials", "2", "--epochs", "1"),
    *(
        "--base-epochs",
        "1",
        "--batch-size",
        "64",
        "--train-limit",
        "200",
        "--speed",
        "none",
        "--final-share",
        "0",
        "--concurrency",
        "1",
    ),
)


def search(output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "AUTOSLIM_WEBHOOK_SECRET": SECRET}
    command = [sys.executable, "-m", "autoslim.cli", "search", *arguments, "--address", "local", "--output", str(output)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=440)


def secrets_in(folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if any(secret in path.read_bytes() for secret in (SECRET.encode(), KEY))]


def test_a_search_and_its_resumption_tell_each_end_once(tmp_path: Path) -> None:
    with receiving() as receiver:
        receiver.answers = [500]
        done = search(tmp_path / "out", *SMALL, "--webhook", receiver.url)
        assert done.returncode in (0, 3), done.stderr
        _check(receiver)
        told = len(receiver.requests)
        again = search(tmp_path / "out", "--resume")
        assert again.returncode == done.returncode, again.stderr
        assert len(receiver.requests) == told
    assert secrets_in(tmp_path) == []
    for text in (done.stdout, done.stderr, again.stderr):
        assert SECRET not in text
        assert "t0k3n" not in done.stderr


def _check(receiver: Receiver) -> None:
    assert all(is_signed(headers, body) for _, headers, body in receiver.requests)
    # The first answer was 500.
    assert receiver.ids[0] in receiver.ids[1:]
    types = dict(zip(receiver.ids, receiver.types, strict=True))
    assert list(types.values())[-1] in ("job.succeeded", "job.failed")
    assert set(list(types.values())[:-1]) <= {"job.best"}
