"""`model.onnx`: images (batch, 3, height, width) in, logits (batch, classes) or features out (`feature_outputs`), for any batch."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from autoslim.core.shape import ViTShape
from autoslim.errors import ExportError
from autoslim.export.artifact import SlimConfig
from autoslim.export.example import any_batch, example_images
from autoslim.export.feature_outputs import outputs_of

FILE = "model.onnx"

OPSET = 20
"""The exporter's own. Later ones have an attention operator whose masks ONNX Runtime 1.31 does not broadcast, and which is no faster."""

FORBIDDEN = ("NonZero", "Compress", "ScatterND", "ScatterElements", "Scatter", "Loop", "If", "Scan")
"""Shapes that depend on the data, scatters, control flow: runtimes of accelerators refuse them or fall back to the CPU."""


def write(model: nn.Module, config: SlimConfig, path: Path) -> None:
    exported, outputs = outputs_of(model, config.classes)
    write_onnx(exported, config.shape, path, outputs=outputs)


def write_onnx(model: nn.Module, shape: ViTShape, path: Path, *, outputs: tuple[str, ...] = ("logits",)) -> None:
    """Raises ExportError if the graph needs a forbidden operator."""
    program = torch.onnx.export(
        model,
        (example_images(shape),),
        dynamo=True,
        dynamic_shapes=(any_batch(),),
        input_names=["images"],
        output_names=list(outputs),
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None
    used = {node.op_type for node in program.model.graph.all_nodes()}
    if found := sorted(used & set(FORBIDDEN)):
        raise ExportError(f"the graph needs {', '.join(found)}")
    program.save(path)
