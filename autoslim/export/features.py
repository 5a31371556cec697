"""Exports the features of a slimmed model, also of one that has a classifier, to a file of their own."""

from __future__ import annotations

from pathlib import Path

from autoslim.errors import RequestError
from autoslim.export.artifact import load, load_config
from autoslim.export.feature_outputs import FeatureOutputs
from autoslim.export.onnx_form import write_onnx
from autoslim.export.pt2_form import write_pt2


def export_features(folder: Path, file: Path, *, restore_tokens: bool = True) -> tuple[str, ...]:
    """Writes the features of the slimmed model in `folder`, one with a classifier or without, to `file`: ONNX where its name ends in
    `.onnx`, torch.export's program where it ends in `.pt2`, both for any batch. The names of the outputs, in their order.

    Raises:
        RequestError: for another file name.
        ExportError: where ONNX cannot express the model.
        UnsupportedModelError: no patch is left to restore others from.
    """
    if file.suffix not in (".onnx", ".pt2"):
        raise RequestError(f"the file is {file.name!r}; allowed: a name that ends in .onnx or .pt2")
    shape, model = load_config(folder).shape, FeatureOutputs(load(folder), restore_tokens=restore_tokens).eval()
    if file.suffix == ".onnx":
        write_onnx(model, shape, file, outputs=model.names)
    else:
        write_pt2(model, shape, file)
    return model.names
