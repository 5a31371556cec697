"""An S3 server for tests: moto's, as a process of its own, and the environment in which it is found."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

from helpers.databases import free_port

_START_SECONDS = 120.0
_NUMBERS = itertools.count()

SECRET = "canary-s3-secret-Zk4p"
"""Of the credentials in the environment; it must not stand anywhere else."""


def environment(endpoint: str) -> dict[str, str]:
    """What a process needs to reach it, as a user sets it."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "of-the-tests",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """The address of a server that holds nothing yet."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | environment(""))
    endpoint = f"http://127.0.0.1:{port}"
    try:
        _wait(process, endpoint)
        yield endpoint
    finally:
        process.kill()
        process.wait()


def make_bucket(endpoint: str) -> str:
    """The name of a new one."""
    name = f"bucket-{next(_NUMBERS)}"
    send("PUT", f"{endpoint}/{name}")
    return name


def send(method: str, url: str, data: bytes | None = None) -> None:
    # Flask would read data without a type as a form.
    request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": "text/plain"})
    urllib.request.urlopen(request, timeout=30).close()


def _wait(process: subprocess.Popen[bytes], endpoint: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            send("GET", f"{endpoint}/moto-api/")
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
