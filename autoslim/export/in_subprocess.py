"""Reads a form back in a subprocess that cannot import autoslim, nor any other package that the form does not need."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from autoslim.data.loader import Batch
from autoslim.errors import ExportError

_TIMEOUT_SECONDS = 600
"""For loading a model and some images on a slow CPU, and for the last images that it is fed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadBack:
    """Of each of the form's outputs what it is image by image, and of the whole batch: logits (B, C), or features. `accuracy` is the top-1
    share on the test images; None without any.
    """

    outputs: list[tuple[Tensor, Tensor]]
    accuracy: float | None


def read_back(form: str, path: Path, images_B3HW: Tensor, test: Iterable[Batch] = ()) -> ReadBack:
    """`test` are further images of the same size, with labels: they are fed through a pipe, so that any number of them takes no space.

    Raises:
        ExportError: when the form cannot be loaded or run there, with the last line of that process.
    """
    labels: list[Tensor] = []

    def pixels() -> Iterator[bytes]:
        for test_B3HW, label_B in test:
            labels.append(label_B)
            yield test_B3HW.numpy().tobytes()

    with tempfile.TemporaryDirectory(prefix="autoslim-apart-") as scratch:
        images, found = Path(scratch) / "images.npy", Path(scratch) / "outputs.npz"
        np.save(images, images_B3HW.numpy())
        script = Path(__file__).parent / "standalone" / "read_back.py"
        _run([sys.executable, "-P", str(script), form, str(path.absolute()), str(images), str(found)], pixels(), Path(scratch))
        with np.load(found) as arrays:
            outputs = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    answer_N = outputs.pop("answers")
    pairs = [(outputs[f"single {number}"], outputs[f"batch {number}"]) for number in range(len(outputs) // 2)]
    accuracy = float((answer_N == torch.cat(labels)).double().mean()) if labels else None
    return ReadBack(outputs=pairs, accuracy=accuracy)


def _run(command: list[str], fed: Iterator[bytes], scratch: Path) -> None:
    log = scratch / "errors.txt"
    # Errors go to a file: a pipe that nobody reads while the images are fed would fill up.
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, cwd=scratch) as process,  # noqa: S603
    ):
        try:
            assert process.stdin is not None
            _feed(process.stdin, fed)
            process.wait(timeout=_TIMEOUT_SECONDS)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        said = log.read_text(errors="replace").strip().splitlines()
        raise ExportError(f"it cannot be read in a clean process: {said[-1] if said else process.returncode}")


def _feed(stdin: IO[bytes], fed: Iterator[bytes]) -> None:
    # A process that has ended takes no more; why it has ended is in its errors.
    with contextlib.suppress(BrokenPipeError):
        for part in fed:
            stdin.write(part)
    with contextlib.suppress(BrokenPipeError):
        stdin.close()
