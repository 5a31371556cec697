"""The deployable forms beside the weights: ONNX, torch.export's program, timm's format if it can express the model, and `load.py`.

Shapes: B images, 3 colour channels, H height, W width.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from autoslim.core.files import is_disk_full
from autoslim.errors import ExportError, first_line
from autoslim.export import onnx_form, pt2_form, timm_form
from autoslim.export.artifact import FormReport, SlimConfig, load, load_config
from autoslim.export.feature_outputs import outputs_of
from autoslim.export.in_subprocess import outputs_in_subprocess
from autoslim.export.onnx_flops import count_onnx_flops
from autoslim.models.weights import file_digest

CHECKSUMS = "SHA256SUMS"
LOAD_SCRIPT = "load.py"

RELATIVE_TOLERANCE = 1e-3
"""Largest absolute difference of a logit, as a share of the logits' standard deviation; of features in the same way. A
correct form differs by far less, unless another runtime's rounding resolves a near tie between two patches the other way."""

MATCHING_SHARE = 7 / 8
"""Share of the images whose outputs must match, because of such ties; the report has the largest difference of all images."""

FormWriter = Callable[[nn.Module, SlimConfig, Path], None]
FORMS: dict[str, tuple[str, FormWriter]] = {
    "onnx": (onnx_form.FILE, onnx_form.write),
    "pt2": (pt2_form.FILE, pt2_form.write),
    "timm": (timm_form.FOLDER, timm_form.write),
}


def export_folder(folder: Path, images_B3HW: Tensor) -> tuple[FormReport, ...]:
    """Writes every form of the model in `folder`, and `load.py`, and compares their outputs with the model's on `images_B3HW`: logits, or
    without classes features.

    A form that cannot be made, or whose outputs differ, is removed; its report has the reason.

    Raises:
        OSError: when the disk is full.
    """
    model, config = load(folder), load_config(folder)
    with torch.no_grad():
        found = outputs_of(model, config.classes)[0](images_B3HW)
    expected = [found] if isinstance(found, Tensor) else list(found)
    reports = tuple(_export_form(name, folder, model, config, images_B3HW, expected) for name in FORMS)
    _remove(folder / LOAD_SCRIPT)
    if (folder / onnx_form.FILE).is_file():
        shutil.copyfile(Path(__file__).parent / "standalone" / LOAD_SCRIPT, folder / LOAD_SCRIPT)
    return reports


def _export_form(
    name: str, folder: Path, model: nn.Module, config: SlimConfig, images_B3HW: Tensor, expected: list[Tensor]
) -> FormReport:
    file, write = FORMS[name]
    path = folder / file
    _remove(path)
    try:
        with _silenced():
            write(model, config, path)
        difference = _difference(name, path, images_B3HW, expected, what="logits" if config.classes else "features")
    except Exception as error:
        # Exporters raise errors of any kind; the report has the reason, and the form is removed.
        _remove(path)
        if is_disk_full(error):
            raise
        return FormReport(name=name, reason=first_line(error))
    report = FormReport(name=name, file=file, difference=difference)
    return _with_flops(report, path, images_B3HW[:1]) if name == "onnx" else report


def _with_flops(report: FormReport, path: Path, image_13HW: Tensor) -> FormReport:
    """The report with the graph's FLOPs; a correct graph that cannot be counted is kept, and the report says why."""
    try:
        return report.replace(flops=count_onnx_flops(path, image_13HW))
    except Exception as error:  # noqa: BLE001 - a graph that ONNX Runtime has just run; the report has the reason
        return report.replace(reason=first_line(error))


def _difference(name: str, path: Path, images_B3HW: Tensor, expected: list[Tensor], *, what: str) -> float:
    """The largest absolute difference of any output, (B, ...), at batch 1 and at the whole batch; `what` the outputs are.

    Raises:
        ExportError: when too many images differ.
    """
    largest = 0.0
    found = outputs_in_subprocess(name, path, images_B3HW)
    # timm's own format has the pooled features alone, which come first.
    for own, output in zip(expected[:1] if name == "timm" else expected, found, strict=True):
        for each in output:
            difference_B = (each - own).abs().flatten(1).amax(dim=1)
            # Where all values are equal, there is no deviation to compare with.
            std = float(own.std()) or 1.0
            matching = int((difference_B <= RELATIVE_TOLERANCE * std).sum())
            if matching < MATCHING_SHARE * len(difference_B):
                raise ExportError(
                    f"its {what} match the model's in {matching} of {len(difference_B)} images; the largest difference is "
                    f"{float(difference_B.max()):.2g}"
                )
            largest = max(largest, float(difference_B.max()))
    return largest


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Silences the exporters' warnings, which concern their own internals."""
    level = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)


def write_checksums(folder: Path) -> None:
    """`SHA256SUMS` over every other file, as `sha256sum --check` reads it."""
    lines = [f"{file_digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in _files(folder)]
    (folder / CHECKSUMS).write_text("".join(lines))


def _files(folder: Path) -> Iterator[Path]:
    # Hidden files are the partial ones of a killed process, which no download contains.
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != CHECKSUMS and path.name[0] != ".")
