"""Everything that an engineer deploys, beside the weights: ONNX, torch.export's program, timm's folder where it can be said, `load.py`."""

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
from autoslim.export.in_subprocess import logits_in_subprocess
from autoslim.export.onnx_flops import count_onnx_flops
from autoslim.models.weights import file_digest

CHECKSUMS = "SHA256SUMS"
LOAD_SCRIPT = "load.py"

ALIKE_WITHIN = 1e-3
"""Of the logits' spread. A form that is right differs by far less, but in a single image a near tie between two patches may be settled
the other way by another runtime's rounding."""

ALIKE_IMAGES = 7 / 8
"""The share of the images that must be alike; the largest difference of all is told."""

Write = Callable[[nn.Module, SlimConfig, Path], None]
FORMS: dict[str, tuple[str, Write]] = {
    "onnx": (onnx_form.FILE, onnx_form.write),
    "pt2": (pt2_form.FILE, pt2_form.write),
    "timm": (timm_form.FOLDER, timm_form.write),
}


def export_folder(folder: Path, images_B3HW: Tensor) -> tuple[FormReport, ...]:
    """Writes every form of the model in `folder` beside it, and `load.py`; compares each with the model on real images.

    A form that cannot be made, or does not say what the model says, is not left behind; its report gives the reason.

    Raises:
        OSError: when the disk is full.
    """
    model, config = load(folder), load_config(folder)
    with torch.no_grad():
        expected_BC = model(images_B3HW)
    reports = tuple(_form(name, folder, model, config, images_B3HW, expected_BC) for name in FORMS)
    _remove(folder / LOAD_SCRIPT)
    if (folder / onnx_form.FILE).is_file():
        shutil.copyfile(Path(__file__).parent / "standalone" / LOAD_SCRIPT, folder / LOAD_SCRIPT)
    return reports


def _form(name: str, folder: Path, model: nn.Module, config: SlimConfig, images_B3HW: Tensor, expected_BC: Tensor) -> FormReport:
    file, write = FORMS[name]
    path = folder / file
    _remove(path)
    try:
        with _quietly():
            write(model, config, path)
        difference = _difference(name, path, images_B3HW, expected_BC)
    except Exception as error:
        # Exporters raise whatever they come across; the reason is told, and the form is not there.
        _remove(path)
        if is_disk_full(error):
            raise
        return FormReport(name=name, reason=first_line(error))
    report = FormReport(name=name, file=file, difference=difference)
    return _counted(report, path, images_B3HW[:1]) if name == "onnx" else report


def _counted(report: FormReport, path: Path, image_13HW: Tensor) -> FormReport:
    """A graph that is right is handed over even where it cannot be counted."""
    try:
        return report.replace(flops=count_onnx_flops(path, image_13HW))
    except Exception as error:  # noqa: BLE001 - a graph that ONNX Runtime has just run; the reason is told
        return report.replace(reason=first_line(error))


def _difference(name: str, path: Path, images_B3HW: Tensor, expected_BC: Tensor) -> float:
    """The largest one of any logit, at batch 1 and of the whole batch.

    Raises:
        ExportError: when the form says something else than the model.
    """
    largest = 0.0
    for found_BC in logits_in_subprocess(name, path, images_B3HW):
        apart_B = (found_BC - expected_BC).abs().amax(dim=1)
        spread = float(expected_BC.std()) or 1.0
        alike = int((apart_B <= ALIKE_WITHIN * spread).sum())
        if alike < ALIKE_IMAGES * len(apart_B):
            raise ExportError(
                f"its logits are the model's in {alike} of {len(apart_B)} images; they differ by up to {float(apart_B.max()):.2g}"
            )
        largest = max(largest, float(apart_B.max()))
    return largest


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Exporters warn of what concerns their makers."""
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
