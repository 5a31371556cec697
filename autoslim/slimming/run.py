"""`Slimming`: a `SlimJob` in its output folder, from the request to the finished model. An interrupted run resumes.

config.json, model.safetensors, README.md    the slimmed model
picture.png, picture.html                    what the model does to test images
answers.parquet                              what the dense and the slimmed model answered for each test image
slim.json, summary.json                      the request and its result
dense/                                       the dense model, where it was trained here
work/                                        prepared images and checkpoints; deleted at the end
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from autoslim.config import JobSpec, flag_name, settings_of
from autoslim.config.job_fields import OBJECTIVE, objective_of
from autoslim.core.constraints import CostLimits
from autoslim.core.files import disk_full_error, is_disk_full, move_folder, publish_folder, replacing_file, write_atomically
from autoslim.core.folder_lock import LOCK, FolderLock, FolderUse, refuse_other_use
from autoslim.core.job import PRETRAINED, SCRATCH
from autoslim.core.record import OPTIONAL
from autoslim.core.result import BaseFacts, EpochReport, Measurements, Outcome
from autoslim.core.run_folder import RunFolder
from autoslim.core.score import ACCURACY
from autoslim.cost import LatencyTable
from autoslim.data.progress import Watch
from autoslim.errors import AutoslimError, BudgetError, OutputError
from autoslim.export.artifact import LatencyReport, load_config
from autoslim.report.finalize import Handover, Provenance, RequestedBudget, complete_folder, evaluate_both
from autoslim.slimming.latency import measure_job, tightened, timed_here
from autoslim.slimming.request import PreparedSlim, SlimJob, adapt, adapt_teacher, prepare_slim, solved, train
from autoslim.training.feature_evaluation import ProbeResult
from autoslim.training.single_flight import remove_leftovers

T = TypeVar("T")

GIVEN = "work/given"
"""A model or data that the caller had as objects, within the folder; deleted at the end with all of `work`."""

_OWN_FLAGS = {
    "budget": "--flops",
    "steps": "--method or --knob",
    "first": "--first",
    "training.distillation": "--distillation",
}
"""What only this request has, or holds in another place than a search's job."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slimmed(Measurements):
    """The slimmed model and the dense one. `score` is what all fields called accuracy are; those on test images are measured on the
    folders, by a new process. `probe` is k-NN top-1 of the features on a labelled set, `forms` the top-1 share of each exported file on the
    test images, by its own runtime. `images` is the size of the splits `validation` and `test`, empty in folders of earlier
    versions; `marked_forms` are the files that lose more than they may, each with what it loses."""

    folder: str
    method: str
    budget: int
    budget_label: str
    dense_flops: int
    dense_params: int
    score: str = dataclasses.field(default=ACCURACY.name, metadata=OPTIONAL)
    test_accuracy: float
    dense_validation_accuracy: float
    dense_test_accuracy: float
    probe: ProbeResult | None = dataclasses.field(default=None, metadata=OPTIONAL)
    forms: dict[str, float] = dataclasses.field(default_factory=dict, metadata=OPTIONAL)
    images: dict[str, int] = dataclasses.field(default_factory=dict, metadata=OPTIONAL)
    marked_forms: tuple[str, ...] = dataclasses.field(default=(), metadata=OPTIONAL)
    files: tuple[str, ...]
    dense_folder: str | None
    limits: CostLimits = dataclasses.field(default_factory=CostLimits)
    latency: LatencyReport | None = None

    @property
    def budget_share(self) -> float:
        return (self.flops or 0) / self.budget


class Slimming:
    """Holds the folder while it is entered; call `prepare`, `adapt`, `train` and `finalize_models` in this order."""

    def __init__(self, folder: Path, job: SlimJob) -> None:
        self.folder, self.job = folder, job
        self._work = folder / "work"
        self._lock = FolderLock(folder, FolderUse.SLIM)
        self._prepared: PreparedSlim | None = None

    def __enter__(self) -> Slimming:
        """Raises OutputError when the folder cannot be written, holds something else, or is being worked in."""
        # Before the lock, which is a file: a folder that is somebody else's is left as it is.
        refuse_other_use(self.folder, FolderUse.SLIM)
        self._refuse_others()
        self._lock.__enter__()
        try:
            self._refuse_others()
            RunFolder(self.folder).claim(need=0, resume=True)
        except AutoslimError:
            self._lock.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.__exit__()

    @property
    def finished(self) -> Slimmed | None:
        """The result of an earlier run of the same request."""
        summary = self.folder / "summary.json"
        return Slimmed.from_json(summary.read_text()) if summary.is_file() else None

    def _refuse_others(self) -> None:
        if not self.folder.is_dir():
            return
        request = self.folder / "slim.json"
        if request.is_file():
            difference = _difference(SlimJob.from_json(request.read_text()).to_dict(), self.job.to_dict())
            if difference is not None:
                raise OutputError(
                    f"{difference}; --output {self.folder} continues with the same request only; give another folder"
                )
            return
        others = sorted(entry.name for entry in self.folder.iterdir() if entry.name not in ("work", LOCK))
        if others:
            raise OutputError(f"--output {self.folder} holds {others[0]}; give a new folder")

    def prepare(self, *, tell: Callable[[str], None] | None = None, watch: Watch | None = None) -> PreparedSlim:
        """Checks the request as a whole, and records it; `tell` and `watch` as of `prepare_dataset`.

        Raises:
            RequestError: before anything is trained.
        """
        prepared = prepare_slim(self.job, self._work / "data", partial(measure_job, folder=self._work), tell=tell, watch=watch)
        if prepared.table is not None:
            prepared = self._tightened(prepared)
        weights = 4 * sum(p.numel() for p in prepared.dense.module.parameters())
        RunFolder(self.folder).claim(need=20 * weights, resume=True)
        write_atomically(self.folder / "slim.json", self.job.to_json(indent=1) + "\n")
        # The lock excludes other processes.
        remove_leftovers(self._work)
        remove_leftovers(self._trial(prepared) / "shared")
        self._prepared = prepared
        return prepared

    def _tightened(self, prepared: PreparedSlim) -> PreparedSlim:
        """The same when the run resumes: a table that was corrected once stays corrected."""
        kept = self._work / f"table-{prepared.recipe.key}.json"
        if kept.is_file():
            return solved(dataclasses.replace(prepared, table=LatencyTable.from_json(kept.read_text())))
        corrected = tightened(prepared)
        assert corrected.table is not None
        write_atomically(kept, corrected.table.to_json())
        return corrected

    def adapt(self) -> Generator[EpochReport, None, BaseFacts]:
        """The dense model, trained first where that is needed."""
        return (yield from self._guarded(adapt(self._ready, self._base(self._ready))))

    def adapt_teacher(self) -> Generator[EpochReport, None, BaseFacts | None]:
        """The teacher, where it is another model, trained first where that is needed."""
        return (yield from self._guarded(adapt_teacher(self._ready, self._teacher(self._ready) or self._work)))

    def train(self) -> Generator[EpochReport, None, Outcome]:
        ready = self._ready
        return (yield from self._guarded(train(ready, self._base(ready), self._trial(ready), self._teacher(ready))))

    def _guarded(self, reports: Generator[EpochReport, None, T]) -> Generator[EpochReport, None, T]:
        try:
            return (yield from reports)
        except OSError as error:
            if is_disk_full(error):
                raise disk_full_error(self.folder, "repeat the command") from error
            raise

    def finalize_models(self, facts: BaseFacts, outcome: Outcome) -> Slimmed:
        """Evaluates both models in a new process, writes card and pictures, and leaves in the folder what a user needs.

        Raises:
            BudgetError: where the model's measured latency is above the limit; it is kept, and measured again next time.
        """
        prepared = self._ready
        latency = self._timed(prepared)
        base, model = self._base(prepared), self._trial(prepared) / "model"
        dataset, budget = prepared.dataset, prepared.recipe.budget
        holdout = evaluate_both(model, base, dataset, probe=prepared.probe, dense_validation=facts.dense_accuracy)
        forms = complete_folder(
            model,
            requested=RequestedBudget(budget=budget, label=self.job.budget.label, limits=self.job.limits, latency=latency),
            holdout=holdout,
            dataset=dataset,
            provenance=Provenance(source=self.job.dataset.source, made_from=prepared.made_from),
            dense=base,
            handover=Handover.of(self.job),
        )
        # The configuration comes last: without it the folder is not a model yet.
        files = sorted((file.name for file in model.iterdir()), key=lambda name: (name == "config.json", name))
        for name in files:
            _copy(model / name, self.folder / name)
        dense = self.folder / "dense" if prepared.adapts else None
        if dense is not None and not dense.is_dir():
            shutil.copytree(base, self._work / "dense", dirs_exist_ok=True)
            move_folder(self._work / "dense", dense)
        slimmed = Slimmed(
            **outcome.measurements(),
            folder=str(self.folder),
            method=prepared.recipe.method,
            budget=budget,
            budget_label=self.job.budget.label,
            dense_flops=facts.dense_flops,
            dense_params=facts.params,
            score=self.job.dataset.score.name,
            test_accuracy=holdout.slimmed.accuracy,
            dense_validation_accuracy=facts.dense_accuracy,
            dense_test_accuracy=holdout.dense.accuracy,
            probe=None if holdout.slimmed.features is None else holdout.slimmed.features.probe,
            limits=self.job.limits,
            latency=latency,
            forms=forms,
            images={split: getattr(prepared.dataset.report, split).images for split in ("validation", "test")},
            marked_forms=load_config(self.folder).marked_forms,
            files=tuple(sorted(files)),
            dense_folder=None if dense is None else str(dense),
        )
        write_atomically(self.folder / "summary.json", slimmed.to_json(indent=1) + "\n")
        shutil.rmtree(self._work, ignore_errors=True)
        return slimmed

    def _timed(self, prepared: PreparedSlim) -> LatencyReport | None:
        limit = self.job.limits.latency_ms
        if prepared.table is None or limit is None:
            return None
        latency = timed_here(self._trial(prepared) / "model", self._base(prepared), prepared.table, self.job.limits)
        if latency.timed.ms > limit:
            raise BudgetError(
                f"{self.job.limits.flags}: the model takes {latency.timed.ms:.4g} ms here ({latency.predicted_ms:.4g} ms were predicted), "
                "and is not delivered. It is kept: where the machine was busy, the same command measures it again; else give a lower limit"
            )
        return latency

    @property
    def _ready(self) -> PreparedSlim:
        assert self._prepared is not None, "prepare comes first"
        return self._prepared

    def _base(self, prepared: PreparedSlim) -> Path:
        return self._work / f"base-{prepared.base_request.digest()}"

    def _teacher(self, prepared: PreparedSlim) -> Path | None:
        request = prepared.teacher_request
        return None if request is None else self._work / f"base-{request.digest()}"

    def _trial(self, prepared: PreparedSlim) -> Path:
        """Named after the weights and the data: where either has changed since, nothing is resumed."""
        request = prepared.teacher_request
        taught = "" if request is None else f"-{request.digest()}"
        return self._work / f"trial-{prepared.base_request.digest()}-{prepared.recipe.key}{taught}"


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first flag in which two requests differ; how speed is measured makes no other model."""
    old, new = (_flat({name: value for name, value in job.items() if name != "speed"}) for job in (before, now))
    for flat in (old, new):
        # As the user writes it; a request for labels is stored without a word of them.
        flat[OBJECTIVE.path] = objective_of(flat.get(OBJECTIVE.path, True))
    # The label of a request without a FLOPs budget is made from its limits.
    for name in sorted(old | new, key=lambda name: name == "budget"):
        if old.get(name) != new.get(name):
            return f"{_flag(name)} is {_short_repr(new.get(name))}, but this model was started with {_short_repr(old.get(name))}"
    return None


def _flag(path: str) -> str:
    """The flags that set a part of the request."""
    if path in _OWN_FLAGS:
        return _OWN_FLAGS[path]
    by_path = {field.path: setting for setting in settings_of(JobSpec).values() for field in setting.rules.job}
    setting = by_path.get(path)
    if setting is None:
        return path
    return " or ".join([flag_name(setting.name), *(shortcut.flag for shortcut in setting.rules.shortcuts)])


def _flat(data: dict[str, Any]) -> dict[str, Any]:
    nested = ("model", "dataset", "limits", "training", "base")
    flat = {name: value for name, value in data.items() if name not in nested}
    return flat | {f"{part}.{name}": value for part in nested for name, value in data[part].items()}


def _short_repr(value: Any) -> str:
    if isinstance(value, dict) and "label" in value:
        return repr(value["label"])
    if isinstance(value, dict) and "weights" in value:
        return repr(value["name"] if value["weights"] in (PRETRAINED, SCRATCH) else value["weights"])
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return ", ".join(f"{step['method']} {step['knobs']}" for step in value)
    return repr(value)


def _copy(source: Path, destination: Path) -> None:
    if source.is_dir():
        with publish_folder(destination) as partial_folder:
            shutil.copytree(source, partial_folder, dirs_exist_ok=True)
    else:
        with replacing_file(destination) as partial_file:
            shutil.copyfile(source, partial_file)
