"""Latency and throughput of a model's exported files on the CPU, in turns with the dense model in ONNX Runtime.

`python -m autoslim.export.profiling.form_speed FOLDER IMAGES.npy --forms onnx,onnx-int8` runs in a process of its own. The last line of its
output is a `SpeedReport` as JSON, whose modes are the names of the forms.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from autoslim.core.speed import SpeedReport, Timing
from autoslim.errors import first_line
from autoslim.export import int8_form, onnx_form, openvino_form, pt2_form
from autoslim.export.artifact import SlimConfig, load_config
from autoslim.export.profiling import runners
from autoslim.export.profiling.benchmark import batch_of, large_batch, timing_of
from autoslim.export.profiling.hardware import hardware
from autoslim.export.profiling.in_subprocess import run_in_subprocess
from autoslim.export.profiling.interleaved import time_interleaved

_SECONDS = 3.0
"""Seconds for each form at one batch size, and for the dense model."""


def _pt2_file(path: Path) -> runners.Runner:
    module = torch.export.load(path).module()

    def run(images_B3HW: Tensor) -> None:
        with torch.no_grad():
            module(images_B3HW)

    return run


def _openvino_folder(path: Path) -> runners.Runner:
    import openvino

    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path / "model.xml", "CPU", threads)

    def run(images_B3HW: Tensor) -> None:
        compiled([images_B3HW.numpy()])

    return run


FILES: dict[str, tuple[str, Callable[[Path], runners.Runner]]] = {
    "onnx": (onnx_form.FILE, runners.onnx_file),
    "pt2": (pt2_form.FILE, _pt2_file),
    "openvino": (openvino_form.FOLDER, _openvino_folder),
    "onnx-int8": (int8_form.FILE, runners.onnx_file),
}
"""The file of a form and what runs it; timm's format is not timed, since it is the model in eager mode."""


def measure_forms(
    folder: Path, images_B3HW: Tensor, forms: tuple[str, ...], *, batches: tuple[int, ...] = (), seconds: float = _SECONDS
) -> SpeedReport:
    """Times those of `forms` that have a runtime, at the sizes `batches`, by default 1 and a large one; `seconds` for each at one size."""
    config, device = load_config(folder), torch.device("cpu")
    dense = _dense(config)
    ready, left_out = [], {}
    for name in forms:
        if name not in FILES:
            continue
        file, runner = FILES[name]
        try:
            ready.append((name, runner(folder / file)))
        except Exception as error:  # noqa: BLE001 - runtimes raise errors of any class; the other forms are still measured
            left_out[name] = first_line(error)
    sizes = batches or (1, large_batch(dense, config.shape, images_B3HW, device))
    runs = [runners.onnxruntime(dense, config.shape, device), *(run for _, run in ready)]
    timings: list[Timing] = []
    for size in sizes if ready else ():
        same_B3HW = batch_of(images_B3HW, size)
        slow, *others = time_interleaved([partial(run, same_B3HW) for run in runs], seconds=seconds * len(runs))
        timings += [timing_of(name, device, size, slow, own) for (name, _), own in zip(ready, others, strict=True)]
    return SpeedReport(hardware=hardware(), threads=torch.get_num_threads(), timings=tuple(timings), left_out=left_out)


def _dense(config: SlimConfig) -> nn.Module:
    """The dense model with untrained weights: they do not change its speed."""
    with torch.random.fork_rng(devices=[]):
        return config.architecture.build().eval()


def measure_forms_in_subprocess(folder: Path, images_B3HW: Tensor, forms: tuple[str, ...]) -> SpeedReport:
    """`measure_forms` in a process of its own.

    Raises:
        JobError: when the process fails or takes too long, with the last line of its error output.
    """
    with tempfile.TemporaryDirectory(prefix="autoslim-speed-") as scratch:
        images = Path(scratch) / "images.npy"
        np.save(images, images_B3HW.numpy())
        arguments = [str(folder), str(images), "--forms", ",".join(forms)]
        return SpeedReport.from_json(run_in_subprocess("autoslim.export.profiling.form_speed", arguments))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a slimmed model's, with its forms")
    parser.add_argument("images", type=Path, help="normalised images (B, 3, height, width), a .npy file")
    parser.add_argument("--forms", required=True, help="names, separated by commas")
    arguments = parser.parse_args()
    # Exporters' warnings would hide the report.
    logging.disable(logging.WARNING)
    images = torch.from_numpy(np.load(arguments.images, allow_pickle=False))
    report = measure_forms(arguments.folder, images, tuple(arguments.forms.split(",")))
    sys.stdout.write(report.to_json() + "\n")


if __name__ == "__main__":
    main()
