"""The deployable forms beside the weights: ONNX, torch.export's program, timm's format if it can express the model, and `load.py`; on
request OpenVINO's IR and ONNX in eight bits. Each is judged by its own runtime.

Shapes: B images, 3 colour channels, H height, W width.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from autoslim.core.files import is_disk_full
from autoslim.core.forms import DEFAULT_FORMS, FORM_NAMES, MAX_FORM_DROP
from autoslim.data import Loader
from autoslim.errors import ExportError, first_line
from autoslim.export import int8_form, onnx_form, openvino_form, pt2_form, timm_form
from autoslim.export.artifact import FormReport, SlimConfig, load, load_config
from autoslim.export.calibration_images import CalibrationImages
from autoslim.export.feature_outputs import outputs_of
from autoslim.export.in_subprocess import read_back
from autoslim.export.onnx_flops import count_onnx_flops
from autoslim.models.weights import file_digest

CHECKSUMS = "SHA256SUMS"
LOAD_SCRIPT = "load.py"

RELATIVE_TOLERANCE = 1e-3
"""Largest absolute difference of a logit, as a share of the logits' standard deviation; of features in the same way. A
correct form differs by far less, unless another runtime's rounding resolves a near tie between two patches the other way."""

MATCHING_SHARE = 7 / 8
"""Share of the images whose outputs must match, because of such ties; the report has the largest difference of all images."""

ROUNDED = ("onnx-int8",)
"""Forms whose outputs differ on purpose; their accuracy decides."""

FormWriter = Callable[[nn.Module, SlimConfig, Path], str | None]
"""Writes a form to a path; returns how it was made where that is to be told."""

FORMS: dict[str, tuple[str, FormWriter]] = {
    "onnx": (onnx_form.FILE, onnx_form.write),
    "pt2": (pt2_form.FILE, pt2_form.write),
    "timm": (timm_form.FOLDER, timm_form.write),
}
"""What a model is handed over as by default."""
assert tuple(FORMS) == DEFAULT_FORMS


def all_forms(calibration: CalibrationImages | None) -> dict[str, tuple[str, FormWriter]]:
    """`FORMS`, and what is made on request; `calibration` is for what is rounded, None for a model of features."""
    forms: dict[str, tuple[str, FormWriter]] = {
        **FORMS,
        "openvino": (openvino_form.FOLDER, openvino_form.write),
        "onnx-int8": (int8_form.FILE, partial(int8_form.write, images=calibration)),
    }
    assert tuple(forms) == FORM_NAMES
    return forms


def require_runtimes(names: Collection[str]) -> None:
    """Raises MissingExtraError where the runtime of a form with one of these names is not installed."""
    if "openvino" in names:
        openvino_form.require()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FormTest:
    """What forms are judged by: a loader of the test images in order, the weights' own top-1 share on them, and the points of top-1
    below it that a form may lose without being marked."""

    loader: Loader
    accuracy: float
    allowed_drop: float = MAX_FORM_DROP


def export_folder(
    folder: Path,
    images_B3HW: Tensor,
    *,
    test: FormTest | None = None,
    forms: Mapping[str, tuple[str, FormWriter]] | None = None,
    into: Path | None = None,
) -> tuple[FormReport, ...]:
    """Writes every form of the model in `folder`, or those in `forms`, and `load.py`, and compares their outputs with the model's on
    `images_B3HW`: logits, or without classes features. `test` has the images that each form's accuracy is measured on. `into` is another
    folder to write to.

    A form that cannot be made, or whose outputs differ, is removed; its report has the reason.

    Raises:
        OSError: when the disk is full.
    """
    model, config, destination = load(folder), load_config(folder), into or folder
    with torch.no_grad():
        found = outputs_of(model, config.classes)[0](images_B3HW)
    expected = [found] if isinstance(found, Tensor) else list(found)
    exporter = _Exporter(model, config, images_B3HW, expected, test)
    reports = tuple(
        exporter.export(name, destination / file, write) for name, (file, write) in (FORMS if forms is None else forms).items()
    )
    remove(destination / LOAD_SCRIPT)
    if (destination / onnx_form.FILE).is_file():
        shutil.copyfile(Path(__file__).parent / "standalone" / LOAD_SCRIPT, destination / LOAD_SCRIPT)
    return reports


@dataclasses.dataclass(frozen=True)
class _Exporter:
    """Makes forms of one model and holds them against its own outputs `expected`."""

    model: nn.Module
    config: SlimConfig
    images_B3HW: Tensor
    expected: list[Tensor]
    test: FormTest | None

    def export(self, name: str, path: Path, write: FormWriter) -> FormReport:
        remove(path)
        try:
            with _silenced():
                made = write(self.model, self.config, path)
            report = self._judged(name, path).replace(made=made or "")
        except Exception as error:
            # Exporters raise errors of any kind; the report has the reason, and the form is removed.
            remove(path)
            if is_disk_full(error):
                raise
            return FormReport(name=name, reason=first_line(error))
        return _with_flops(report, path, self.images_B3HW[:1]) if name == "onnx" else report

    def _judged(self, name: str, path: Path) -> FormReport:
        """Read back by a process of its own. Raises ExportError where it says something else than the model."""
        test = self.test
        found = read_back(name, path, self.images_B3HW, () if test is None else test.loader.epoch(0))
        # timm's own format has the pooled features alone, which come first.
        expected = self.expected[:1] if name == "timm" else self.expected
        if name not in ROUNDED:
            _check_outputs(found.outputs, expected, what="logits" if self.config.classes else "features")
        report = FormReport(name=name, file=path.name, difference=_difference(found.outputs, expected))
        if test is None or found.accuracy is None:
            return report
        # Rounded, so that what is as much as allowed is not more by the last bit.
        drop = round(100 * (test.accuracy - found.accuracy), 6)
        return report.replace(accuracy=found.accuracy, drop=drop, allowed_drop=test.allowed_drop)


def _with_flops(report: FormReport, path: Path, image_13HW: Tensor) -> FormReport:
    """The report with the graph's FLOPs; a correct graph that cannot be counted is kept, and the report says why."""
    try:
        return report.replace(flops=count_onnx_flops(path, image_13HW))
    except Exception as error:  # noqa: BLE001 - a graph that ONNX Runtime has just run; the report has the reason
        return report.replace(reason=first_line(error))


def _check_outputs(found: list[tuple[Tensor, Tensor]], expected: list[Tensor], *, what: str) -> None:
    """Holds all outputs, (B, ...), at batch 1 and at the whole batch against the model's; `what` they are.

    Raises:
        ExportError: when too many images differ.
    """
    for own, output in zip(expected, found, strict=True):
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


def _difference(found: list[tuple[Tensor, Tensor]], expected: list[Tensor]) -> float:
    """The largest absolute difference of any output, at either batch size."""
    return max(float((each - own).abs().max()) for own, output in zip(expected, found, strict=True) for each in output)


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
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
