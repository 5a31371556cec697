"""The model card's section on the exported files: how each is read, its own accuracy, and its speed where it was measured."""

from __future__ import annotations

import re

from autoslim.core.figures import format_figure
from autoslim.core.score import ACCURACY
from autoslim.core.speed import SpeedReport
from autoslim.export.artifact import FormReport, SlimConfig

_FORMS = {
    "onnx": "ONNX, any batch; `images` (B, 3, height, width) in, {outputs} out",
    "pt2": "`torch.export.load`, any batch; needs torch alone",
    "timm": "`timm.create_model('local-dir:...', pretrained=True)`; needs timm alone",
    "openvino": "OpenVINO's `compile_model` of `model.xml`, any batch; needs openvino alone; inputs and outputs as in ONNX. Some "
    "processors compute in bfloat16 unless `INFERENCE_PRECISION_HINT` is `f32`, as here",
    "onnx-int8": "ONNX, any batch, weights and activations in eight bits; inputs and outputs as in ONNX",
}


def forms_section(config: SlimConfig) -> str:
    """The files beside the weights, the forms that could not be made, and those that lose too much. Empty without forms."""
    if not config.forms:
        return ""
    what = "logit" if config.classes else "feature"
    made = [form for form in config.forms if form.difference is not None]
    judged = bool(config.form_accuracy)
    unit = ACCURACY.interval_unit(config.images.get("test"))
    head = f"| file | how it is read |{f' top-1, test{unit} |' if judged else ''} largest difference of a {what} |"
    rows = [_row(config, form, judged=judged) for form in made]
    rows = [_weights_row(config), *rows] if judged else rows
    return f"""## Forms

{head}
|---|---|---|{"---|" if judged else ""}
{chr(10).join(rows)}

{_remarks(config)}Differences are from the weights' own {what}s on {config.images["compared"]:,} test images, at batch 1 and all at once, in
a process without autoslim.{_accuracies(judged)} {_script(config)}`sha256sum --check SHA256SUMS` checks the files.

{_speed(config.form_speed)}"""


def replace_forms_section(card: str, config: SlimConfig) -> str:
    """`card` with the section as it is now."""
    parts = re.split(r"^(?=## )", card, flags=re.MULTILINE)
    others = [part for part in parts if not part.startswith("## Forms\n")]
    before = ("## Speed\n", "## Latency\n", "## How it was made\n")
    place = next((place for place, part in enumerate(others) if part.startswith(before)), len(others))
    return "".join([*others[:place], forms_section(config), *others[place:]])


def _row(config: SlimConfig, form: FormReport, *, judged: bool) -> str:
    outputs = "`logits`" if config.classes else "`pooled` and `tokens`, restored to the whole grid,"
    cells = [f"`{form.file}`", _FORMS[form.name].format(outputs=outputs)]
    if judged:
        cells.append(ACCURACY.with_interval(form.accuracy, config.images.get("test")))
    return f"| {' | '.join([*cells, f'{form.difference:.1e}'])} |"


def _weights_row(config: SlimConfig) -> str:
    own = ACCURACY.with_interval(config.score_on("test"), config.images.get("test"))
    return f"| `model.safetensors` | `autoslim.load` | {own} | |"


def _remarks(config: SlimConfig) -> str:
    """What a reader has to know of single forms, the warnings first."""
    lines = [f"**`{form.file}` {form.describe_loss()}.**" for form in config.forms if form.loses_too_much]
    lines += [f"`{form.file}`: {form.made}." for form in config.forms if form.made]
    lines += [f"Not made: {form.name}, because {form.reason}." for form in config.forms if not form.file]
    lines += [f"Not counted: {form.name}, because {form.reason}." for form in config.forms if form.file and form.reason]
    return "".join(f"{line}\n\n" for line in lines)


def _accuracies(judged: bool) -> str:
    return " Accuracies are each file's own, on all test images, by its runtime in that process." if judged else ""


def _script(config: SlimConfig) -> str:
    if not any(form.name == "onnx" and form.file for form in config.forms):
        return ""
    task = "classifies" if config.classes else "writes the features of"
    return f"`python load.py IMAGE` {task} an image with numpy, pillow and onnxruntime alone. "


def _speed(speed: SpeedReport | None) -> str:
    if speed is None:
        return ""
    rows = "\n".join(
        f"| {timing.mode} | {timing.batch} | {format_figure(timing.dense_ms)} | {format_figure(timing.slimmed_ms)} | "
        f"{1000 * timing.batch / timing.slimmed_ms:,.0f} | {timing.describe_speedup()} |"
        for timing in speed.timings
    )
    left_out = "".join(f"Not measured: {name}, because {reason}.\n" for name, reason in speed.left_out.items())
    if not rows:
        return f"{left_out}\n" if left_out else ""
    return f"""| form | batch | dense, ms | this file, ms | images a second | times as fast (quartiles) |
|---|---|---|---|---|---|
{rows}

{left_out}Medians of the files and of the dense model in float32 in ONNX Runtime, run in turns on the CPU: {speed.hardware},
{speed.threads} threads. {speed.explain_speedups()}

"""
