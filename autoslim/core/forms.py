"""The names of a slimmed model's exported forms."""

from __future__ import annotations

from typing import Literal, get_args

FormName = Literal["onnx", "pt2", "timm", "openvino", "onnx-int8"]
FORM_NAMES: tuple[FormName, ...] = get_args(FormName)
"""What a model can be handed over as besides its weights, in the order of reports."""

DEFAULT_FORMS: tuple[FormName, ...] = ("onnx", "pt2", "timm")
"""What a search and `slim` make unless they are asked for others; `autoslim export` makes any of them later."""

MAX_FORM_DROP = 0.5
"""Points of top-1 that a form may lose against the weights without being marked: about as much as another seed of a training changes."""
