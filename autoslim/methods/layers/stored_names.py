"""Weights keep the names that format 1 of a model folder gave them, whatever the modules' attributes are called today."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn


class StoredNames(nn.Module):
    """A module some of whose children are stored under another name: `stored_names` maps the attribute to it.

    Loading accepts both, so that model folders and trials' checkpoints of earlier versions are read.
    """

    stored_names: ClassVar[dict[str, str]] = {}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for attribute, stored in self.stored_names.items():
            for name in [name for name in state_dict if name.startswith(f"{prefix}{stored}.")]:
                state_dict[f"{prefix}{attribute}.{name.removeprefix(f'{prefix}{stored}.')}"] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def stored_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """`model.state_dict()` under the names that a model folder holds."""
    renamed = {}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for attribute, stored in getattr(module, "stored_names", {}).items():
            renamed[f"{prefix}{attribute}."] = f"{prefix}{stored}."
    state = {}
    for name, tensor in model.state_dict().items():
        # Inner modules first: their prefixes are still spelled with the outer attributes' names.
        for own in sorted(renamed, key=len, reverse=True):
            if name.startswith(own):
                name = renamed[own] + name.removeprefix(own)
        state[name] = tensor
    return state
