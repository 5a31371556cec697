"""Writes safetensors files that may be read by whoever may read their neighbours."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes contiguous tensors that share no memory; an existing file is replaced."""
    path.unlink(missing_ok=True)
    # safetensors gives its files to their owner alone, whatever the process's umask says. A group that may read config.json, and a web
    # server, needs the weights, too; the umask, which a service narrows, decides for both.
    path.touch()
    rights = stat.S_IMODE(path.stat().st_mode)
    safetensors.torch.save_file(dict(tensors), path)
    path.chmod(rights)
