"""A short search whose trials share the device, two at a time: `autoslim search` as a user calls it."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import torch

from device_parts.extent import Clock, Extent, Finding, dense_model, images_in

_TRIALS = 3
_IMAGES = 512


def findings(extent: Extent, clock: Clock, scratch: Path) -> Iterator[Finding]:
    resources = "gpu=0.5,cpu=2" if torch.cuda.is_available() else "cpu=0.5"
    what = f"a search, {resources}, {_TRIALS} trials"
    output, began = scratch / "search", time.monotonic()
    command = [sys.executable, "-m", "autoslim.cli", *_arguments(extent, scratch, resources), "--output", str(output)]
    with tempfile.TemporaryFile("w+") as told, tempfile.TemporaryFile("w+") as errors:
        code = _exit_code(command, told, errors, seconds=clock.left)
        for file in (told, errors):
            file.seek(0)
        summary = told.read()
        lines = errors.read().strip().splitlines() or ["no error output"]
    if code is None or code:
        yield Finding(what=what, skipped="no time is left" if code is None else f"exit code {code}: {lines[-1]}")
        return
    found = json.loads(summary)
    states = {f"trials {state}": float(count) for state, count in found["states"].items()}
    yield Finding(what=what, numbers={"seconds": time.monotonic() - began, **states, "models": float(len(found["models"]))})


def _exit_code(command: list[str], told: IO[str], errors: IO[str], *, seconds: float) -> int | None:
    """None where it has not ended in time; it is then interrupted, so that it ends its workers."""
    process = subprocess.Popen(command, stdout=told, stderr=errors)
    try:
        return process.wait(timeout=max(0.0, seconds))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait()
        return None


def _arguments(extent: Extent, scratch: Path, resources: str) -> list[str]:
    few = dataclasses.replace(extent, images=min(extent.images, _IMAGES))
    data = images_in(scratch / "images", few, dense_model(extent).shape.image_size)
    arguments = ["search", "--model", extent.model, "--from-scratch", "--data", str(data), "--flops", "70%", "--space", "smoke"]
    if extent.args:
        arguments += ["--model-args", ",".join(f"{name}={value}" for name, value in extent.args.items())]
    arguments += ["--trials", str(_TRIALS), "--epochs", "1", "--base-epochs", "1", "--batch-size", str(extent.batch)]
    arguments += ["--resources", resources, "--concurrency", "2", "--final-share", "0", "--scheduler", "none", "--speed", "none"]
    return [*arguments, "--forms", "none", "--progress", "none", "--json"]
