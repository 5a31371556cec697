"""Runs `autoslim search` as a user does, and stops it at a line of its output."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import ClassVar

import psutil

SEARCH = [
    "--model", "deit_tiny_patch16_224", "--from-scratch",
    "--model-args", "patch_size=4,embed_dim=32,depth=4,num_heads=2", "--image-size", "16",
    "--data", "digits", "--flops", "70%", "--flops", "50%", "--space", "smoke",
    "--epochs", "2", "--base-epochs", "1", "--batch-size", "64", "--speed", "eager", "--scheduler", "none",
]  # fmt: skip


class Search:
    """A search in its own process group, and the lines that it prints; `begun` are all searches of the test session."""

    begun: ClassVar[list[Search]] = []

    def __init__(self, *arguments: str) -> None:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "autoslim.cli", "search", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self.begun.append(self)

    def read_until(self, wanted: Callable[[str], bool], *, seconds: float = 150.0) -> str:
        deadline = time.monotonic() + seconds
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if wanted(line):
                return line
            assert time.monotonic() < deadline, "".join(self.lines)
        raise AssertionError("the search ended without printing the line:\n" + "".join(self.lines))

    def end(self) -> int:
        assert self.process.stdout is not None
        with self.process.stdout as rest:
            self.lines += list(rest)
        return self.process.wait(timeout=150)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill_all(self) -> None:
        """kill -9 of every process of the run: the driver, Ray's own and the workers."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def processes(self) -> list[psutil.Process]:
        """The driver first, then Ray's processes and the workers."""
        driver = psutil.Process(self.process.pid)
        return [driver, *driver.children(recursive=True)]

    def workers(self) -> list[psutil.Process]:
        """The processes that run trials; Ray names them after the class that `tune.with_resources` makes of the trainable."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.cmdline() and process.cmdline()[0].startswith("ray::ResourceTrainable"):
                    found.append(process)
        return found

    def some_workers(self, *, most: int, seconds: float = 10.0) -> list[psutil.Process]:
        """One to `most` of them. Waits, because Ray renames a process between two calls of it."""
        deadline = time.monotonic() + seconds
        while not 1 <= len(found := self.workers()) <= most:
            assert time.monotonic() < deadline, f"{len(found)} workers:\n{self.text}"
            time.sleep(0.05)
        return found

    def one_worker(self, *, seconds: float = 10.0) -> psutil.Process:
        """Of a search that runs one trial at a time."""
        found = self.some_workers(most=1, seconds=seconds)
        return found[0]

    @property
    def text(self) -> str:
        return "".join(self.lines)
