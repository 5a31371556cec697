"""What a checkpoint in the middle of a segment has beside weights and optimizer: the sums of the curves, and torch's generators.

With these a resumed segment draws and reports what the uninterrupted one would have, to the bit. The tensors stand in the checkpoint under
names of their own, and a checkpoint between two segments has none of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_PREFIX = "segment."
_TOTAL = f"{_PREFIX}total."
_GENERATOR, _CUDA_GENERATOR = f"{_PREFIX}generator", f"{_PREFIX}cuda_generator"


def unfinished_state(totals: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Of a segment whose curves' sums so far are `totals`, on the device that it trains on."""
    tensors = {f"{_TOTAL}{name}": total for name, total in totals.items()}
    tensors[_GENERATOR] = torch.get_rng_state()
    if device.type == "cuda":
        tensors[_CUDA_GENERATOR] = torch.cuda.get_rng_state(device)
    return tensors


def unfinished_part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `unfinished_state` in a checkpoint; none where it was made between two segments."""
    return {name: value for name, value in tensors.items() if name.startswith(_PREFIX)}


def resume_unfinished(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Sets the generators as they were, and returns the curves' sums."""
    # Generators have their states on the CPU. One of another kind of device than the checkpoint's stays as the segment has seeded it.
    torch.set_rng_state(tensors[_GENERATOR].cpu())
    if device.type == "cuda" and _CUDA_GENERATOR in tensors:
        torch.cuda.set_rng_state(tensors[_CUDA_GENERATOR].cpu(), device)
    return {name.removeprefix(_TOTAL): value.to(device) for name, value in tensors.items() if name.startswith(_TOTAL)}
