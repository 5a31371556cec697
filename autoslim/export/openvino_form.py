"""`openvino/`: OpenVINO's intermediate representation in float32, `model.xml` and `model.bin`, for any batch; OpenVINO alone reads it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import nn

from autoslim.core.extras import needs_extra
from autoslim.export import onnx_form
from autoslim.export.artifact import SlimConfig

FOLDER = "openvino"


def write(model: nn.Module, config: SlimConfig, path: Path) -> None:
    """Inputs and outputs have the names of `model.onnx`, which it is made from.

    Raises:
        MissingExtraError: where openvino is not installed.
        ExportError: where ONNX cannot express the model.
    """
    require()
    import openvino

    with tempfile.TemporaryDirectory(prefix="autoslim-openvino-") as scratch:
        graph = Path(scratch) / onnx_form.FILE
        onnx_form.write(model, config, graph)
        # Not `openvino.convert_model`, which reports its use to a server.
        read = openvino.Core().read_model(graph)
        path.mkdir()
        # Halves would be smaller, but the accuracy would be another one.
        openvino.save_model(read, path / "model.xml", compress_to_fp16=False)


def require() -> None:
    """Raises MissingExtraError where openvino is not installed."""
    with needs_extra("openvino", "the form openvino"):
        import openvino  # noqa: F401
