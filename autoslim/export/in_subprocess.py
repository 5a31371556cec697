"""Reads a form back in a process of its own, in which autoslim, and whatever else the form does not need, cannot be imported."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autoslim.errors import ExportError

_MINUTES = 10


def logits_in_subprocess(form: str, path: Path, images_B3HW: Tensor) -> tuple[Tensor, Tensor]:
    """The logits (B, C) at batch 1, image by image, and of the whole batch.

    Raises:
        ExportError: when the form cannot be loaded or run there, with what that process said last.
    """
    with tempfile.TemporaryDirectory(prefix="autoslim-apart-") as scratch:
        images, found = Path(scratch) / "images.npy", Path(scratch) / "logits.npz"
        np.save(images, images_B3HW.numpy())
        script = Path(__file__).parent / "standalone" / "read_back.py"
        command = [sys.executable, "-P", str(script), form, str(path.absolute()), str(images), str(found)]
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=scratch, timeout=60 * _MINUTES)  # noqa: S603
        if run.returncode != 0:
            said = run.stderr.strip().splitlines()
            raise ExportError(f"it cannot be read in a clean process: {said[-1] if said else run.returncode}")
        with np.load(found) as logits:
            return torch.from_numpy(logits["single"]), torch.from_numpy(logits["batch"])
