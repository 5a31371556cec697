"""A trial's state on disk, from which it resumes after a crash: safetensors and JSON, never a pickle.

Where machines share no file system it is in the store instead (`Mirror`), before anybody is told of it. Nothing of it is left on the node:
who deletes the checkpoint of a trial that was stopped is another machine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from autoslim.core.files import previous_folder, publish_folder
from autoslim.models.tensor_file import write_tensors
from autoslim.storage.mirror import NO_MIRROR, Mirror

_METADATA = "facts.json"
_FORMER_NAMES = {"cut_accuracy": "accuracy_after_pruning", "tuned": "trainable"}
"""Names of metadata before version 0.2, so that a checkpoint written then can be resumed."""
_SCALING = ("scale", "_growth_tracker")
"""What changes of a scaler's state: the factor, and the steps since it has changed."""


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], metadata: dict[str, Any], *, mirror: Mirror = NO_MIRROR) -> None:
    """Replaces the checkpoint in `folder`: after a crash either the old one or the new one is found, never half of each."""
    # Copies, because safetensors refuses tensors that share memory (a mask that several modules hold).
    copies = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    with publish_folder(folder) as partial:
        write_tensors(partial / "state.safetensors", copies)
        (partial / _METADATA).write_text(json.dumps(metadata))
    mirror.offload(folder)


def load_checkpoint(folder: Path, *, mirror: Mirror = NO_MIRROR) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and metadata, or None before the trial's first checkpoint."""
    # What is here may be of before the trial went to another machine.
    mirror.refresh(folder)
    # A process that was killed between the two renames of `move_folder` leaves only the previous checkpoint.
    for candidate in (folder, previous_folder(folder)):
        if (candidate / _METADATA).is_file():
            metadata = json.loads((candidate / _METADATA).read_text())
            current = {_FORMER_NAMES.get(name, name): value for name, value in metadata.items()}
            return safetensors.torch.load_file(candidate / "state.safetensors"), current
    return None


def delete_checkpoint(folder: Path, *, mirror: Mirror = NO_MIRROR) -> None:
    """Nothing continues from it any more."""
    mirror.delete(folder)


def flatten_optimizer(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> dict[str, Tensor]:
    """The optimizer's tensors under `optimizer.<parameter number>.<name>`; where the loss is scaled, the scaler's under `scaler.<name>`."""
    state, scaling = optimizer.state_dict()["state"], scaler.state_dict()
    tensors = {f"optimizer.{number}.{name}": value for number, entry in state.items() for name, value in entry.items()}
    return tensors | {f"scaler.{name}": torch.tensor(scaling[name]) for name in _SCALING if scaling}


def restore_optimizer(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".", 2)
            state.setdefault(int(number), {})[name] = value
    # Learning rates and decays are not stored: they follow from the settings and the step.
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    # `auto` may have been another precision on the device of the run before, where no loss was scaled.
    scaling = {name: tensors[f"scaler.{name}"].item() for name in _SCALING if f"scaler.{name}" in tensors}
    if scaling:
        scaler.load_state_dict(scaler.state_dict() | scaling)
