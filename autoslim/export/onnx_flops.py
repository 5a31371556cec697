"""FLOPs of an ONNX graph: multiply-accumulates of one image, counted from the shapes that occur in ONNX Runtime.

An independent check: it shares nothing with the plan's closed form or with fvcore's count but the price of a LayerNorm.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from autoslim.cost.flops import LAYER_NORM
from autoslim.errors import ExportError

_FREE_OPERATORS = """
    Add Sub Mul Div Neg Pow Sqrt Exp Log Tanh Sigmoid Softmax Gelu Erf Relu Min Max Clip Cast Where Greater GreaterOrEqual Less
    LessOrEqual Equal Not And Or ReduceSum ReduceMean ReduceMax ReduceL2 TopK ArgMax ArgMin CumSum Abs Reciprocal
    Shape Size Reshape Transpose Concat Split Slice Squeeze Unsqueeze Expand Gather GatherElements GatherND Identity Constant
    ConstantOfShape Range Flatten Tile Pad
"""
_FREE = frozenset(_FREE_OPERATORS.split())
_PRICED = ("MatMul", "Gemm", "Conv", "LayerNormalization")


def count_onnx_flops(path: Path, image_13HW: Tensor) -> int:
    """Runs one image (1, 3, H, W) and sums the prices of matrix products, convolutions and LayerNorms.

    Raises:
        ExportError: for an operator without a known price.
    """
    import onnx
    import onnxruntime

    model = onnx.load(path)
    unknown = sorted({node.op_type for node in model.graph.node} - _FREE - set(_PRICED))
    if unknown:
        raise ExportError(f"FLOPs of the ONNX graph cannot be counted: no price is known for {', '.join(unknown)}")
    nodes = [node for node in model.graph.node if node.op_type in _PRICED]
    shapes = {weight.name: tuple(weight.dims) for weight in model.graph.initializer}
    # Only an output's shape is known after a run, so every operand of a priced operator becomes one.
    own = {value.name for value in (*model.graph.input, *model.graph.output)}
    asked = {name for node in nodes for name in (*node.input[:2], node.output[0])} - shapes.keys() - own
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in sorted(asked))
    options = onnxruntime.SessionOptions()
    # An optimizer would fuse operators, and the outputs would be gone.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: image_13HW.numpy()}
    names = [output.name for output in session.get_outputs()]
    shapes |= {name: value.shape for name, value in (*feed.items(), *zip(names, session.run(names, feed), strict=True))}
    return sum(_price(node, shapes) for node in nodes)


def _price(node: Any, shapes: dict[str, tuple[int, ...]]) -> int:
    operand, output = shapes[node.input[0]], shapes[node.output[0]]
    if node.op_type == "LayerNormalization":
        return LAYER_NORM * math.prod(output)
    if node.op_type == "Conv":
        return math.prod(output) * math.prod(shapes[node.input[1]][1:])
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(output) * operand[-2 if transposed else -1]
