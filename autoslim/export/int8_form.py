"""`model.int8.onnx`: the graph of `model.onnx` with matrix products in eight bits, for any batch, as ONNX Runtime runs it.

Static quantisation: weights have a scale for each output channel, activations one for each tensor, which calibration images set. Norms,
activation functions, softmax and residuals stay in float32. Which products are in eight bits is chosen by validation images.

Shapes: N calibration images, M images of the choice, C classes.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from autoslim.errors import ExportError
from autoslim.export import onnx_form
from autoslim.export.artifact import SlimConfig
from autoslim.export.calibration_images import CalibrationImages

FILE = "model.int8.onnx"

_PRODUCTS = ("Conv", "Gemm", "MatMul")
_BATCH = 16
"""Images in one run of the graph; their activations are in memory at once."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scheme:
    """Which products are in eight bits: all with weights, with `attention` also those of two activations, without `ends` not the first (of
    the patches) and the last (of the classes).
    """

    name: str
    attention: bool
    ends: bool


SCHEMES = (
    Scheme(name="all matrix products", attention=True, ends=True),
    Scheme(name="all matrix products with weights", attention=False, ends=True),
    Scheme(name="all matrix products with weights but the first and the last", attention=False, ends=False),
)
"""Candidates, the one with the most in eight bits first."""


def write(model: nn.Module, config: SlimConfig, path: Path, *, images: CalibrationImages | None) -> str:
    """Writes the candidate whose answers are most often the float graph's, of equal ones the first. Returns what it is.

    Raises:
        ExportError: for a model of features, or where ONNX cannot express the model.
    """
    if images is None or not config.classes:
        raise ExportError("it is chosen and judged by the classes that it answers, and a model of features has none")
    with tempfile.TemporaryDirectory(prefix="autoslim-int8-") as scratch:
        graph, prepared = Path(scratch) / onnx_form.FILE, Path(scratch) / "prepared.onnx"
        onnx_form.write(model, config, graph)
        prepare(graph, prepared)
        own_M, shares = _answers(graph, images.validation_M3HW), []
        for number, scheme in enumerate(SCHEMES):
            candidate = Path(scratch) / f"{number}.onnx"
            quantize(prepared, candidate, scheme, images.train_N3HW)
            shares.append(float((_answers(candidate, images.validation_M3HW) == own_M).mean()))
        best = int(np.argmax(shares))
        shutil.copyfile(Path(scratch) / f"{best}.onnx", path)
    return (
        f"{SCHEMES[best].name}, of {len(SCHEMES)} candidates the closest to the float graph: {shares[best]:.2%} of {len(own_M)} "
        f"validation images have its answer; ranges from {len(images.train_N3HW):,} training images"
    )


def quantize(graph: Path, path: Path, scheme: Scheme, train_N3HW: Tensor) -> None:
    """`graph` is one that `prepare` wrote."""
    from onnxruntime import quantization

    quantization.quantize_static(
        str(graph),
        str(path),
        _reader(train_N3HW),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=list(_PRODUCTS),
        nodes_to_exclude=_left_in_float(graph, scheme),
        per_channel=True,
        # Seven bits for weights: without VNNI a processor adds two products of eight bits in sixteen, which overflow, and the accuracy
        # would depend on the machine.
        reduce_range=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        calibrate_method=quantization.CalibrationMethod.MinMax,
        # What follows these products is in float32 anyway: rounding their outputs costs accuracy and saves nothing.
        extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
    )


def prepare(graph: Path, path: Path) -> None:
    """Folds constants, so that each weight is one, and infers shapes."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(str(graph), str(path), skip_symbolic_shape=True)


def _left_in_float(graph: Path, scheme: Scheme) -> list[str]:
    """The names of the products that `scheme` does not quantise."""
    import onnx

    model = onnx.load(graph).graph
    weights = {initializer.name for initializer in model.initializer}
    products = [node for node in model.node if node.op_type in _PRODUCTS]
    weighted = [node for node in products if weights & set(node.input[:2])]
    kept = [] if scheme.attention else [node.name for node in products if node not in weighted]
    return kept if scheme.ends else [*kept, weighted[0].name, weighted[-1].name]


def _answers(graph: Path, images_M3HW: Tensor) -> NDArray[np.int64]:
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    logits = [session.run(None, feed)[0] for feed in _feeds(images_M3HW)]
    answer_M: NDArray[np.int64] = np.concatenate(logits).argmax(axis=1)
    return answer_M


def _feeds(images_N3HW: Tensor) -> Iterator[dict[str, NDArray[np.float32]]]:
    return ({"images": images_N3HW[start : start + _BATCH].numpy()} for start in range(0, len(images_N3HW), _BATCH))


def _reader(images_N3HW: Tensor) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = _feeds(images_N3HW)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self.feeds, None)

    return Reader()
