"""A trial's state on disk as safetensors and JSON, so that it goes on after a crash; never a pickle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

_FORMER_FACTS = {"cut_accuracy": "accuracy_after_pruning", "tuned": "trainable"}
"""Names of facts before version 0.2: a checkpoint written then is resumed, too."""


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Replaces the checkpoint in `folder` as a whole: either the old one or the new one is found there, never half of each."""
    fresh = folder.with_name(folder.name + ".partial")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    # Copies, because safetensors refuses tensors that share memory (a mask that stands in several modules).
    safetensors.torch.save_file(
        {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, fresh / "state.safetensors"
    )
    (fresh / "facts.json").write_text(json.dumps(facts))
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        # Where it is not there, a process was killed between these two renames, and the old one is all that there is.
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and facts, or None when the trial has not come as far as a first checkpoint."""
    for candidate in (folder, folder.with_name(folder.name + ".old")):
        if (candidate / "facts.json").is_file():
            facts = json.loads((candidate / "facts.json").read_text())
            current = {_FORMER_FACTS.get(name, name): value for name, value in facts.items()}
            return safetensors.torch.load_file(candidate / "state.safetensors"), current
    return None


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors under `optimizer.<parameter number>.<name>`."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{number}.{name}": value for number, entry in state.items() for name, value in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".", 2)
            state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
