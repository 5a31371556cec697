"""Reads a form back in a subprocess that cannot import autoslim, nor any other package that the form does not need."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autoslim.errors import ExportError

_TIMEOUT_SECONDS = 600
"""For loading a model and some images on a slow CPU."""


def outputs_in_subprocess(form: str, path: Path, images_B3HW: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Of each of the form's outputs what it is image by image, and of the whole batch: logits (B, C), or features.

    Raises:
        ExportError: when the form cannot be loaded or run there, with the last line of that process.
    """
    with tempfile.TemporaryDirectory(prefix="autoslim-apart-") as scratch:
        images, found = Path(scratch) / "images.npy", Path(scratch) / "outputs.npz"
        np.save(images, images_B3HW.numpy())
        script = Path(__file__).parent / "standalone" / "read_back.py"
        command = [sys.executable, "-P", str(script), form, str(path.absolute()), str(images), str(found)]
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=scratch, timeout=_TIMEOUT_SECONDS)  # noqa: S603
        if run.returncode != 0:
            said = run.stderr.strip().splitlines()
            raise ExportError(f"it cannot be read in a clean process: {said[-1] if said else run.returncode}")
        with np.load(found) as outputs:
            count = len(outputs.files) // 2
            names = [(f"single {number}", f"batch {number}") for number in range(count)]
            return [(torch.from_numpy(outputs[single]), torch.from_numpy(outputs[batch])) for single, batch in names]
