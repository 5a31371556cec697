"""Loads weights into a dense model from a file, without running code that the file may contain."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from autoslim.errors import WeightsError
from autoslim.models.registry import family_of


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file or a weights-only torch file.

    Raises:
        WeightsError: when the file is missing, broken, or a pickle that holds anything but tensors (it is refused, not run).
    """
    if not path.is_file():
        raise WeightsError(f"weights file {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        _refuse_packed(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, ModuleNotFoundError, AttributeError) as error:
        raise WeightsError(
            f"weights file {path} is a pickle that holds more than tensors; it was refused, not run. "
            "Save a state dict as safetensors instead"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise WeightsError(f"weights file {path} cannot be read: {error}") from error
    return _unwrap(state, path)


def _refuse_packed(path: Path) -> None:
    """Refuses compressed archives: torch writes none, but would unpack any, to any size."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise WeightsError(f"weights file {path} is a compressed archive; allowed: as torch.save writes it, or safetensors")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise WeightsError(f"weights file {path} unpacks to more than it holds; save a state dict as safetensors instead")


def _unwrap(state: Any, path: Path) -> dict[str, Tensor]:
    for key in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"weights file {path} is not a state dict: expected tensors by parameter name")
    return state


def load_weights(model: nn.Module, state: dict[str, Tensor], *, source: str) -> bool:
    """Loads `state` strictly, position embeddings resampled to the model's grid; returns whether the classifier fitted, too.

    A classifier of another number of classes is left as it was created; that of a checkpoint is left out where the model has none.

    Raises:
        WeightsError: naming the parameters that are missing, left over, or of another shape.
    """
    family = family_of(model)
    try:
        state = family.own_names(dict(state), model)
    except (RuntimeError, KeyError, ValueError) as error:
        raise WeightsError(f"weights of {source} do not fit the model: {error}") from error
    own, heads = model.state_dict(), family.classifiers
    head_fits = all(name in state and state[name].shape == own[name].shape for name in own if name.startswith(heads))
    if not head_fits or not any(name.startswith(heads) for name in own):
        state = {name: value for name, value in state.items() if not name.startswith(heads)}
    missing = [name for name in own if name not in state and (head_fits or not name.startswith(heads))]
    left_over = [name for name in state if name not in own]
    misfits = [
        f"{n} {tuple(v.shape)} for {tuple(own[n].shape)}" for n, v in state.items() if n in own and v.shape != own[n].shape
    ]
    for what, names in (("lack", missing), ("have besides", left_over), ("have in another shape", misfits)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise WeightsError(f"weights of {source} do not fit the model: they {what} {', '.join(names[:3])}{more}")
    model.load_state_dict(state, strict=head_fits)
    return head_fits


def is_resampled(model: nn.Module, state: dict[str, Tensor]) -> bool:
    """Whether `state` has another grid, patch size or window, so that the loaded weights are interpolated."""
    own = model.state_dict()
    resampled = ("pos_embed", "patch_embed.proj.weight", "relative_position_bias_table")
    return any(own[name].shape != state[name].shape for name in own if name.endswith(resampled) and name in state)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
