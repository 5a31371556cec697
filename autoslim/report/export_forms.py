"""`autoslim export`: further forms of a finished model, each judged on all test images, in its folder, its configuration and its card."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from torch import Tensor

from autoslim.core.files import disk_full_error, is_disk_full
from autoslim.core.forms import FORM_NAMES, MAX_FORM_DROP
from autoslim.core.record import Record
from autoslim.core.speed import SpeedReport
from autoslim.data import PreparedDataset
from autoslim.errors import OutputError, RequestError
from autoslim.export import export_folder, require_runtimes, write_checksums
from autoslim.export.artifact import FormReport, SlimConfig, load_config, write_config
from autoslim.export.folder import LOAD_SCRIPT, remove
from autoslim.export.onnx_form import FILE as ONNX
from autoslim.report.card_forms import replace_forms_section
from autoslim.report.finalize import compared_images, form_test, forms_named, time_forms
from autoslim.training.holdout import HoldoutResult, evaluate_in_subprocess

CARD = "README.md"
_PARTIAL = "forms.partial"

_STRAY = 0.005
"""Share of the test images whose answers may differ from those that the card counts: the card's may be another machine's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """The `names` of forms (`core.forms`), the points of top-1 that each may lose without being marked, the seed of the calibration images,
    and whether the files are timed.

    Raises:
        RequestError: for an unknown name or a number that is not allowed.
        MissingExtraError: for a form whose runtime is not installed.
    """

    names: tuple[str, ...]
    max_drop: float = MAX_FORM_DROP
    seed: int = 0
    speed: bool = True

    def __post_init__(self) -> None:
        if unknown := [name for name in self.names if name not in FORM_NAMES] or ([""] if not self.names else []):
            raise RequestError(f"--format is {unknown[0]!r}; allowed, separated by commas: {', '.join(FORM_NAMES)}")
        if not 0 <= self.max_drop <= 100:
            raise RequestError(f"--max-form-drop is {self.max_drop:g}; allowed: 0 to 100, points of top-1")
        require_runtimes(self.names)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported(Record):
    """`accuracy` is the weights' top-1 share on the `images` test images, None without classes; `forms` are those that were requested."""

    folder: str
    images: int
    accuracy: float | None
    forms: tuple[FormReport, ...]
    speed: SpeedReport | None


def export_forms(folder: Path, dataset: PreparedDataset, request: ExportRequest) -> Exported:
    """Makes the forms of the model in `folder`, which stays as it was until all are made; those it had under other names stay.

    Raises:
        RequestError: for a data set whose test images are not those that the model was judged by.
        OutputError: when the folder cannot be written.
        JobError: when the weights cannot be evaluated.
    """
    config = load_config(folder)
    images_B3HW = compared_images(config, dataset)
    weights = _weights(folder, config, dataset)
    try:
        reports = _make(folder, config, dataset, request, images_B3HW, weights)
        made = tuple(report.name for report in reports if report.file)
        speed = time_forms(folder, images_B3HW, made) if request.speed and made else None
        config = _with_forms(config, reports, speed, compared=len(images_B3HW))
        _describe(folder, config)
    except OSError as error:
        if is_disk_full(error):
            raise disk_full_error(folder, "repeat the command") from error
        raise OutputError(f"{folder} cannot be written: {error.strerror}") from error
    return Exported(
        folder=str(folder),
        images=dataset.report.test.images,
        accuracy=None if weights is None else weights.accuracy,
        forms=reports,
        speed=speed,
    )


def _weights(folder: Path, config: SlimConfig, dataset: PreparedDataset) -> HoldoutResult | None:
    """The weights' result on the test images. Raises RequestError where these are others than the card's."""
    if not config.classes:
        return None
    stated, counted = config.score_on("test"), config.images.get("test")
    found = evaluate_in_subprocess(folder, dataset.path, "test")
    if stated is None or counted is None:
        return found
    if counted != found.images or abs(stated - found.accuracy) * counted > max(1.5, _STRAY * counted):
        raise RequestError(
            f"--data has {found.images:,} test images, of which the weights answer {found.accuracy:.2%} right; the card says {stated:.2%} "
            f"of {counted:,}. Give the data set that the model was made with, and its --seed"
        )
    return found


def _make(
    folder: Path,
    config: SlimConfig,
    dataset: PreparedDataset,
    request: ExportRequest,
    images_B3HW: Tensor,
    weights: HoldoutResult | None,
) -> tuple[FormReport, ...]:
    """In a folder beside the files, which is moved to their place at the end."""
    wanted = forms_named(request.names, config, dataset, seed=request.seed)
    test = None if weights is None else form_test(config, dataset, weights, allowed_drop=request.max_drop)
    partial = folder / _PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        reports = export_folder(folder, images_B3HW, test=test, forms=wanted, into=partial)
        for report in reports:
            remove(folder / wanted[report.name][0])
        for made in sorted(partial.iterdir()):
            made.replace(folder / made.name)
        if not (folder / ONNX).is_file():
            remove(folder / LOAD_SCRIPT)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return reports


def _with_forms(config: SlimConfig, reports: tuple[FormReport, ...], speed: SpeedReport | None, *, compared: int) -> SlimConfig:
    by_name = {report.name: report for report in (*config.forms, *reports)}
    forms = tuple(sorted(by_name.values(), key=lambda report: FORM_NAMES.index(report.name)))
    # Times of another moment cannot stand beside these: all in a table were measured in turns.
    return config.replace(forms=forms, form_speed=speed, images={**config.images, "compared": compared})


def _describe(folder: Path, config: SlimConfig) -> None:
    write_config(folder, config)
    card = folder / CARD
    if card.is_file():
        card.write_text(replace_forms_section(card.read_text(encoding="utf-8"), config), encoding="utf-8")
    write_checksums(folder)
