"""Results that trials share: the first trial that needs one computes it, the others wait for it (`single_flight`).

A result and its cost are in a folder named by the digest of everything that decides the result.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Generator
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from autoslim.core.files import is_unfinished
from autoslim.core.record import Record
from autoslim.core.result import EpochReport, SharedCost
from autoslim.models.tensor_file import write_tensors
from autoslim.storage.mirror import NO_MIRROR, Mirror
from autoslim.training.single_flight import COST, KEPT_COSTS, publish_shared, single_flight


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedRequest(Record):
    """Everything that decides a shared result; its digest is the result's key."""

    method: str
    settings: dict[str, Any]
    base_digest: str
    dataset_digest: str
    training: dict[str, Any]
    seed: int


Work = Generator[EpochReport, None, dict[str, Tensor]]


def compute_once(root: Path, request: SharedRequest, work: Work, *, mirror: Mirror = NO_MIRROR) -> Work:
    """The result of `work`: read from `root`, or from the store of `mirror`, if it is there, else computed. `work` is closed in either
    case."""
    folder = root / request.digest()
    try:
        return (yield from single_flight(folder, lambda: _read(folder), lambda: _compute(folder, request, work), mirror=mirror))
    finally:
        work.close()


def _compute(folder: Path, request: SharedRequest, work: Work) -> Generator[EpochReport]:
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
    with publish_shared(folder, lambda: _read(folder)) as partial:
        # Copies, because safetensors refuses tensors that share memory.
        copies = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
        write_tensors(partial / "result.safetensors", copies)
        write_cost(
            partial,
            SharedCost(key=folder.name, method=request.method, settings=request.settings, epochs=last, seconds=seconds),
        )


def _read(folder: Path) -> dict[str, Tensor] | None:
    if not (folder / COST).is_file():
        return None
    return safetensors.torch.load_file(folder / "result.safetensors")


def write_cost(folder: Path, cost: SharedCost) -> None:
    (folder / COST).write_text(cost.to_json(indent=1))


def costs(root: Path) -> list[SharedCost]:
    """Costs of the published results in `root`, sorted by key."""
    # A folder that is still being written may have its cost already, under a temporary name.
    paths = sorted(path for path in root.glob(f"*/{COST}") if not is_unfinished(path.parent.name))
    return [SharedCost.from_json(path.read_text()) for path in paths]


def kept_costs(mirror: Mirror, *, known: Collection[str]) -> list[SharedCost]:
    """Those of the results in a store, without the ones whose keys are `known`."""
    found = mirror.read_texts(KEPT_COSTS, known=[f"{key}.json" for key in known])
    return [SharedCost.from_json(text) for text in found.values()]
