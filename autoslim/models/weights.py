"""Loads weights into a dense model, under the names that they have elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from autoslim.errors import WeightsError
from autoslim.models.registry import family_of


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
            raise WeightsError(
                f"weights of {source} do not fit the model: they {what} {', '.join(names[:3])}{more}{_hint(state, missing)}"
            )
    model.load_state_dict(state, strict=head_fits)
    return head_fits


def _hint(state: Mapping[str, Tensor], missing: list[str]) -> str:
    """Whose names they have, where that is known, and what helps."""
    if any("attention.attention.query" in name for name in state):
        return "; they have transformers' names: timm loads such models from the hub under its own names (`autoslim models` lists them)"
    if any(name.startswith("encoder.layers.encoder_layer_") for name in state):
        return "; they have torchvision's names, and timm's are needed"
    if "fc_norm.weight" in state and "norm.weight" in missing:
        return "; they are of a model that averages its patches: --model-args global_pool=avg"
    return ""


def is_resampled(model: nn.Module, state: dict[str, Tensor]) -> bool:
    """Whether `state` has another grid, patch size or window, so that the loaded weights are interpolated."""
    own = model.state_dict()
    resampled = family_of(model).resampled
    return any(own[name].shape != state[name].shape for name in own if name.endswith(resampled) and name in state)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
