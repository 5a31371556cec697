"""The modes in which a model runs: eager, compiled, and in ONNX Runtime; on the CPU or a GPU."""

from __future__ import annotations

import copy
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch._dynamo.config as dynamo_config
from torch import Tensor, nn

from autoslim.core.job import SPEED_MODES
from autoslim.core.shape import ViTShape
from autoslim.errors import ExportError
from autoslim.export.onnx_form import write_onnx

_GRAPHS = 1024
"""Graphs that torch.compile may make of one class: one per block, model and batch size, far more than its default of 8."""

WEIGHTS_ON_GPU = torch.bfloat16
"""As a model would be deployed; images are in it, too."""

Runner = Callable[[Tensor], None]
"""Runs one batch (B, 3, height, width) and returns when its result is ready."""


def eager(model: nn.Module, shape: ViTShape, device: torch.device) -> Runner:
    """The model as it is."""
    return torch_runner(_placed(model, device), device)


def compiled(model: nn.Module, shape: ViTShape, device: torch.device) -> Runner:
    """The model compiled; on a GPU with CUDA graphs, as it would be deployed for latency. Raises ExportError as `compiled_model`."""
    return torch_runner(compiled_model(model, device, cuda_graphs=True), device)


def compiled_model(model: nn.Module, device: torch.device, *, cuda_graphs: bool) -> Callable[[Tensor], Tensor]:
    """A copy on the device, compiled with a graph per batch size, for images (B, 3, height, width) that are there already.

    Without a GPU there are no CUDA graphs.

    Raises:
        ExportError: when the machine has no C++ compiler.
    """
    if device.type == "cpu" and not any(shutil.which(compiler) for compiler in ("g++", "clang++", "c++")):
        raise ExportError("torch.compile needs a C++ compiler, and there is none")
    # Dynamo counts all graphs of a class together and, at its limit, silently falls back to eager mode.
    dynamo_config.recompile_limit = dynamo_config.accumulated_recompile_limit = _GRAPHS
    dynamo_config.fail_on_recompile_limit_hit = True
    mode = "reduce-overhead" if device.type == "cuda" and cuda_graphs else "default"
    compiled: Callable[[Tensor], Tensor] = torch.compile(_placed(model, device), dynamic=False, fullgraph=True, mode=mode)
    return compiled


def onnxruntime(model: nn.Module, shape: ViTShape, device: torch.device) -> Runner:
    """The model in ONNX Runtime. Raises ExportError when the installed ONNX Runtime does not support the device."""
    import onnxruntime as runtime

    provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
    if provider not in runtime.get_available_providers():
        raise ExportError(f"this ONNX Runtime has no {provider}")
    with tempfile.TemporaryDirectory(prefix="autoslim-speed-") as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(scratch) / "model.onnx"
        write_onnx(model, shape, path)
        return onnx_file(path, provider=provider)


def onnx_file(path: Path, *, provider: str = "CPUExecutionProvider") -> Runner:
    """The graph in `path` in ONNX Runtime."""
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # A session's threads spin for tens of milliseconds after a run, which would take the cores from the next model in turn.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = runtime.InferenceSession(path, options, providers=[provider])

    def run(images_B3HW: Tensor) -> None:
        session.run(None, {"images": images_B3HW.numpy()})

    return run


def _placed(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy on the device: on a GPU in `WEIGHTS_ON_GPU`, on a CPU in its own precision."""
    placed = copy.deepcopy(model).eval().to(device)
    return placed.to(WEIGHTS_ON_GPU) if device.type == "cuda" else placed


def torch_runner(model: Callable[[Tensor], Tensor], device: torch.device) -> Runner:
    """Runs `model`, which is on the device."""
    if device.type == "cpu":

        def run(images_B3HW: Tensor) -> None:
            with torch.inference_mode():
                model(images_B3HW)

        return run
    there: dict[tuple[int, ...], Tensor] = {}

    def run_there(images_B3HW: Tensor) -> None:
        # Copying images to the GPU is the data loader's work, not the model's.
        key = tuple(images_B3HW.shape)
        if key not in there:
            there[key] = images_B3HW.to(device, WEIGHTS_ON_GPU)
        with torch.inference_mode():
            model(there[key])
        torch.cuda.synchronize(device)

    return run_there


BACKENDS: dict[str, Callable[[nn.Module, ViTShape, torch.device], Runner]] = {
    "eager": eager,
    "compiled": compiled,
    "onnxruntime": onnxruntime,
}
assert tuple(BACKENDS) == SPEED_MODES
