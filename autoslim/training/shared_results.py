"""Work that trials share, done once: by the first trial that needs it, while the others wait, on any node (`single_flight`).

The result is in a folder named by the digest of everything that decides it, together with what it cost.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from autoslim.core.files import is_unfinished
from autoslim.core.record import Record
from autoslim.core.result import EpochReport, SharedCost
from autoslim.training.single_flight import publishing, single_flight


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
    """The result of `work`, which runs only where `root` does not have it yet; otherwise `work` is closed unrun."""
    folder = root / request.digest()
    try:
        return (yield from single_flight(folder, lambda: _read(folder), lambda: _do(folder, request, work)))
    finally:
        work.close()


def _do(folder: Path, request: SharedRequest, work: Work) -> Generator[EpochReport]:
    began, last = time.monotonic(), 0.0
    while True:
        try:
            report = next(work)
        except StopIteration as end:
            tensors: dict[str, Tensor] = end.value
            break
        # The work's cost in epochs is where its last report is.
        last = max(last, report.epoch)
        yield report
    seconds = time.monotonic() - began
    with publishing(folder, lambda: _read(folder)) as partial:
        safetensors.torch.save_file(
            # Copies, because safetensors refuses tensors that share memory.
            {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()},
            partial / "result.safetensors",
        )
        write_cost(
            partial,
            SharedCost(key=folder.name, method=request.method, settings=request.settings, epochs=last, seconds=seconds),
        )


def _read(folder: Path) -> dict[str, Tensor] | None:
    if not (folder / _COST).is_file():
        return None
    return safetensors.torch.load_file(folder / "result.safetensors")


_COST = "cost.json"


def write_cost(folder: Path, cost: SharedCost) -> None:
    (folder / _COST).write_text(cost.to_json(indent=1))


def costs(root: Path) -> list[SharedCost]:
    """What the shared work in `root` has cost, by key; work that is not published yet is left out."""
    # A folder that is still being written may have its cost already, under a temporary name.
    paths = sorted(path for path in root.glob(f"*/{_COST}") if not is_unfinished(path.parent.name))
    return [SharedCost.from_json(path.read_text()) for path in paths]
