"""Work that trials share, done once: by whoever needs it first, while the others wait, on whatever node.

The result lies in a folder named by everything that decides it, published by one rename; a lock beside it says who is at work, and
its beat that they still live. Nothing else is needed of the cluster than the storage that its nodes share anyway, so the result
outlives workers and driver alike. Clocks are never compared: a waiter watches the beat with its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import threading
import time
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from autoslim.record import Record
from autoslim.result import EpochReport, SharedCost

BEAT_EVERY = 5.0
DEAD_AFTER = 60.0
"""Seconds without a beat after which a waiter takes the work over."""

_POLL = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedRequest(Record):
    """Everything that decides a shared result; its digest is its key."""

    method: str
    settings: dict[str, Any]
    base_digest: str
    dataset_digest: str
    training: dict[str, Any]
    seed: int


Work = Generator[EpochReport, None, dict[str, Tensor]]


def once(root: Path, request: SharedRequest, work: Work) -> Work:
    """The result of `work`, which is run only where it lies in `root` for no one yet; `work` may be closed unrun."""
    root.mkdir(parents=True, exist_ok=True)
    folder = root / request.digest()
    while True:
        found = _read(folder)
        if found is not None:
            work.close()
            return found
        lock = _Lock(folder.with_name(folder.name + ".lock"))
        if lock.take():
            with lock.held():
                if _read(folder) is None:
                    yield from _do(folder, request, work)
        else:
            lock.wait(until=folder)


def _do(folder: Path, request: SharedRequest, work: Work) -> Generator[EpochReport]:
    began, last = time.monotonic(), 0.0
    while True:
        try:
            report = next(work)
        except StopIteration as end:
            tensors: dict[str, Tensor] = end.value
            break
        last = max(last, report.epoch)
        yield report
    cost = SharedCost(
        key=folder.name, method=request.method, settings=request.settings, epochs=last, seconds=time.monotonic() - began
    )
    partial = folder.with_name(f"{folder.name}.partial-{uuid.uuid4().hex}")
    partial.mkdir()
    safetensors.torch.save_file(
        {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}, partial / "result.safetensors"
    )
    (partial / "cost.json").write_text(cost.to_json(indent=1))
    try:
        partial.rename(folder)
    except OSError:
        # Someone who took this work for dead was quicker; the results are the same.
        shutil.rmtree(partial, ignore_errors=True)
        if _read(folder) is None:
            raise


def _read(folder: Path) -> dict[str, Tensor] | None:
    if not (folder / "cost.json").is_file():
        return None
    return safetensors.torch.load_file(folder / "result.safetensors")


def costs(root: Path) -> list[SharedCost]:
    """What the shared work in `root` has cost, by key."""
    return [SharedCost.from_json(path.read_text()) for path in sorted(root.glob("*/cost.json"))]


class _Lock:
    """A folder, because making one is atomic on every file system; its file `beat` changes while the owner lives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.owner = uuid.uuid4().hex

    def take(self) -> bool:
        try:
            self.path.mkdir()
        except FileExistsError:
            return False
        self._beat(0)
        return True

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        stop = threading.Event()

        def beat() -> None:
            count = 0
            while not stop.wait(BEAT_EVERY):
                count += 1
                # A beat that storage refuses is one beat missed; a dozen in a row, and a waiter rightly takes the work over.
                with contextlib.suppress(OSError):
                    self._beat(count)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            if self._last().startswith(self.owner):
                shutil.rmtree(self.path, ignore_errors=True)

    def wait(self, *, until: Path) -> None:
        """Returns when the result is there, the lock is free, or its owner was found dead and the lock broken."""
        seen, since = self._last(), time.monotonic()
        while self.path.exists() and not (until / "cost.json").is_file():
            time.sleep(_POLL)
            now = self._last()
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > DEAD_AFTER:
                self._break()
                return

    def _break(self) -> None:
        """Only one of several waiters can move the dead lock away."""
        grave = self.path.with_name(f"{self.path.name}.dead-{uuid.uuid4().hex}")
        # It is gone where another waiter was quicker, or the owner has finished after all; then there is nothing to break.
        with contextlib.suppress(OSError):
            os.rename(self.path, grave)
            shutil.rmtree(grave, ignore_errors=True)

    def _beat(self, count: int) -> None:
        (self.path / "beat").write_text(f"{self.owner} {count}")

    def _last(self) -> str:
        try:
            return (self.path / "beat").read_text()
        except OSError:
            return ""
