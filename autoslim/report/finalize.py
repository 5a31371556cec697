"""Completes a trained model's folder for delivery: accuracies in its configuration, exported forms, speed, pictures, a model card."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from torch import Tensor

from autoslim.core.constraints import CostLimits
from autoslim.core.forms import DEFAULT_FORMS, MAX_FORM_DROP
from autoslim.core.made_from import MadeFrom
from autoslim.core.speed import SpeedReport
from autoslim.data import PreparedDataset, sample_split
from autoslim.errors import JobError, UnsupportedModelError
from autoslim.export import export_folder, write_checksums
from autoslim.export.artifact import FormReport, LatencyReport, SlimConfig, load_config, write_config
from autoslim.export.calibration_images import draw_calibration
from autoslim.export.folder import ROUNDED, FormTest, FormWriter, all_forms
from autoslim.export.profiling import hardware, measure_in_subprocess
from autoslim.export.profiling.form_speed import measure_forms_in_subprocess
from autoslim.models.weights import file_digest
from autoslim.report.answers import write_answers
from autoslim.report.card import render_card
from autoslim.report.picture import write_pictures
from autoslim.training.holdout import HoldoutResult, evaluate_all_in_subprocess, evaluate_in_subprocess, loader_for

_log = logging.getLogger(__name__)

PICTURED_IMAGES = 8
"""The number of test images in the pictures."""

COMPARED_IMAGES = 16
"""The number of test images on which the exported forms are compared with the model."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HoldoutResults:
    """The results of the slimmed and the dense model on the test images, and the dense model's validation accuracy."""

    slimmed: HoldoutResult
    dense: HoldoutResult
    dense_validation: float

    @property
    def accuracy(self) -> dict[str, float]:
        """As in `SlimConfig`."""
        features = self.slimmed.features
        if features is None:
            return {
                "validation/dense": self.dense_validation,
                "test/dense": self.dense.accuracy,
                "test/slimmed": self.slimmed.accuracy,
            }
        found = features.agreement
        measured = {"test/agreement": found.score, "test/pooled": found.pooled, "test/patches": found.patches}
        probe = features.probe
        return measured if probe is None else {**measured, "probe/dense": probe.dense, "probe/slimmed": probe.slimmed}

    @property
    def images(self) -> dict[str, int]:
        """As in `SlimConfig`."""
        features = self.slimmed.features
        probe = None if features is None else features.probe
        return {"test": self.slimmed.images, **({} if probe is None else {"probe": probe.images})}


def evaluate_both(
    model: Path, dense: Path, dataset: PreparedDataset, *, probe: PreparedDataset | None, dense_validation: float
) -> HoldoutResults:
    """The folders of the slimmed and of the dense model on the test images, by a new process; without classes their features."""
    if dataset.classes:
        slimmed, own = evaluate_all_in_subprocess([model, dense], dataset.path, "test")
    else:
        slimmed = evaluate_in_subprocess(model, dataset.path, "test", dense=dense, probe=None if probe is None else probe.path)
        own = slimmed.of_dense()
    return HoldoutResults(slimmed=slimmed, dense=own, dense_validation=dense_validation)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """`job` and `trial` of a search, or None for a model that was made without one; `source` is the data set's,
    `reason` why the search selected this trial. `made_from` is written into the configuration, with the digests.
    """

    source: str
    job: str | None = None
    trial: int | None = None
    reason: str = ""
    made_from: MadeFrom | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RequestedBudget:
    """A `budget` in multiply-accumulates and as the user wrote it (`label`), and the `limits` beside it.

    `latency` is measured where it is limited.
    """

    budget: int
    label: str
    limits: CostLimits = dataclasses.field(default_factory=CostLimits)
    latency: LatencyReport | None = None


class HandoverSettings(Protocol):
    """What a search's job and that of `slim` say of it."""

    @property
    def speed(self) -> tuple[str, ...]: ...

    @property
    def forms(self) -> tuple[str, ...]: ...

    @property
    def max_form_drop(self) -> float: ...

    @property
    def seed(self) -> int: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Handover:
    """What a model is handed over with: the ways in which it is timed (`speed`), and the `forms` beside its weights, each marked where it
    loses more than `max_drop` points. The `seed` draws the images that eight-bit forms are made with."""

    speed: tuple[str, ...]
    forms: tuple[str, ...] = DEFAULT_FORMS
    max_drop: float = MAX_FORM_DROP
    seed: int = 0

    @classmethod
    def of(cls, job: HandoverSettings) -> Handover:
        return cls(speed=job.speed, forms=job.forms, max_drop=job.max_form_drop, seed=job.seed)


def complete_folder(
    folder: Path,
    *,
    requested: RequestedBudget,
    holdout: HoldoutResults,
    dataset: PreparedDataset,
    provenance: Provenance,
    dense: Path,
    handover: Handover,
) -> dict[str, float]:
    """`folder` has the model and its configuration, `dense` is the dense model's. Returns the top-1 share of each exported file on the test
    images.
    """
    config = load_config(folder)
    config = config.replace(
        flops=config.flops.replace(budget=requested.budget, budget_label=requested.label),
        accuracy={**config.accuracy, **holdout.accuracy},
        images={**config.images, **holdout.images},
        limits=requested.limits,
        latency=requested.latency,
        made_from=_with_digests(provenance.made_from, dataset, dense),
    )
    write_config(folder, config)
    images_B3HW = compared_images(config, dataset)
    wanted = None if handover.forms == DEFAULT_FORMS else forms_named(handover.forms, config, dataset, seed=handover.seed)
    test = form_test(config, dataset, holdout.slimmed, allowed_drop=handover.max_drop)
    forms = _export_forms(folder, images_B3HW, test, wanted)
    files = tuple(form.name for form in forms if form.file)
    config = config.replace(
        forms=forms,
        speed=_measure_speed(folder, dense, images_B3HW, handover.speed) if handover.speed else None,
        # What every model is handed over as runs as in the ways of `speed`.
        form_speed=time_forms(folder, images_B3HW, files) if handover.speed and set(files) - set(DEFAULT_FORMS) else None,
        images={**config.images, "compared": len(images_B3HW)},
    )
    write_config(folder, config)
    _write_answers(folder, holdout, dataset)
    _describe(folder, config, dataset, provenance)
    return config.form_accuracy


def relabel_folder(folder: Path, *, requested: RequestedBudget, dataset: PreparedDataset, provenance: Provenance) -> None:
    """`folder` is a copy of a completed one, whose model is another budget's, too: what says the budget is written anew, and neither the
    forms nor what was measured of them."""
    config = load_config(folder)
    digests = {} if config.made_from is None else config.made_from.digests
    config = config.replace(
        flops=config.flops.replace(budget=requested.budget, budget_label=requested.label),
        limits=requested.limits,
        latency=requested.latency,
        made_from=None if provenance.made_from is None else provenance.made_from.replace(digests=digests),
    )
    write_config(folder, config)
    _describe(folder, config, dataset, provenance)


def _describe(folder: Path, config: SlimConfig, dataset: PreparedDataset, provenance: Provenance) -> None:
    """Pictures, the card, and the checksums of all files."""
    has_pictures = _draw_pictures(folder, dataset)
    card = render_card(
        config,
        job=provenance.job,
        trial=provenance.trial,
        source=provenance.source,
        report=_describe_data(dataset),
        has_pictures=has_pictures,
        reason=provenance.reason,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    write_checksums(folder)


def _with_digests(made_from: MadeFrom | None, dataset: PreparedDataset, dense: Path) -> MadeFrom | None:
    if made_from is None:
        return None
    return made_from.replace(digests={"data": dataset.digest, "dense": file_digest(dense / "model.safetensors")})


def compared_images(config: SlimConfig, dataset: PreparedDataset) -> Tensor:
    """The test images on which forms are compared with the model."""
    size, preprocessing = config.shape.image_size, config.preprocessing
    sample = sample_split(dataset.splits(size, preprocessing.crop_pct).test, dataset.classes, size, COMPARED_IMAGES)
    return sample.tensor(mean=preprocessing.mean, std=preprocessing.std)


def form_test(config: SlimConfig, dataset: PreparedDataset, weights: HoldoutResult, *, allowed_drop: float) -> FormTest | None:
    """What forms are judged by, with the weights' result on the same images; None without classes."""
    if not config.classes:
        return None
    test = dataset.splits(config.shape.image_size, config.preprocessing.crop_pct).test
    return FormTest(loader=loader_for(config, test, batch_size=64), accuracy=weights.accuracy, allowed_drop=allowed_drop)


def forms_named(
    names: Collection[str], config: SlimConfig, dataset: PreparedDataset, *, seed: int
) -> dict[str, tuple[str, FormWriter]]:
    """The forms of these names, in the order of reports, with how each is written; the `seed` draws the images for eight bits."""
    rounded = config.classes and not set(ROUNDED).isdisjoint(names)
    forms = all_forms(draw_calibration(dataset, config, seed=seed) if rounded else None)
    return {name: form for name, form in forms.items() if name in names}


def _export_forms(
    folder: Path, images_B3HW: Tensor, test: FormTest | None, wanted: dict[str, tuple[str, FormWriter]] | None
) -> tuple[FormReport, ...]:
    forms = export_folder(folder, images_B3HW, test=test, forms=wanted)
    for form in forms:
        if form.reason:
            _log.info("%s has no %s form: %s", folder, form.name, form.reason)
    return forms


def time_forms(folder: Path, images_B3HW: Tensor, names: tuple[str, ...]) -> SpeedReport:
    """Files whose speed cannot be measured are delivered nevertheless."""
    try:
        return measure_forms_in_subprocess(folder, images_B3HW, names)
    except JobError as error:
        return SpeedReport(hardware=hardware(), threads=0, timings=(), left_out={", ".join(names): str(error)})


def _measure_speed(folder: Path, dense: Path, images_B3HW: Tensor, modes: tuple[str, ...]) -> SpeedReport:
    """A model whose speed cannot be measured is delivered nevertheless, and its card says why."""
    try:
        return measure_in_subprocess(folder, dense, images_B3HW, modes=modes)
    except JobError as error:
        _log.warning("the speed of %s could not be measured: %s", folder, error)
        return SpeedReport(hardware=hardware(), threads=0, timings=(), left_out={", ".join(modes): str(error)})


def _write_answers(folder: Path, holdout: HoldoutResults, dataset: PreparedDataset) -> None:
    """Nothing for a model of features, which answers with no class."""
    if not (holdout.slimmed.answers and holdout.dense.answers):
        return
    config = load_config(folder)
    labels = dataset.splits(config.shape.image_size, config.preprocessing.crop_pct).test.labels.tolist()
    write_answers(folder, labels=labels, dense=holdout.dense.answers, slimmed=holdout.slimmed.answers)


def _draw_pictures(folder: Path, dataset: PreparedDataset) -> bool:
    """Returns whether there are pictures; a model that cannot be drawn is delivered without them."""
    config = load_config(folder)
    test = dataset.splits(config.shape.image_size, config.preprocessing.crop_pct).test
    try:
        write_pictures(folder, sample_split(test, dataset.classes, config.shape.image_size, PICTURED_IMAGES))
    except UnsupportedModelError as error:
        _log.warning("no picture of %s: %s", folder, error)
        return False
    return True


def _describe_data(dataset: PreparedDataset) -> str:
    report = dataset.report
    return (
        f"{report.train.images:,} training, {report.validation.images:,} validation ({report.validation.how_obtained}) and "
        f"{report.test.images:,} test images ({report.test.how_obtained}); "
        f"{report.train.unreadable + report.validation.unreadable + report.test.unreadable} unreadable images left out."
        + "".join(f" Taken: {what}." for what in report.chosen)
        + "".join(f" Not used: {what}." for what in report.not_used)
        + "".join(f" Look at: {what}." for what in report.suspicious)
    )
