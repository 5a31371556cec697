"""`run_search`: a search in a script or a notebook, and what it found."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoslim.api.given import Data, Model, given_inputs
from autoslim.api.settings import new_job, resumed_job, with_settings
from autoslim.config import Commands
from autoslim.core.budget import Budget
from autoslim.core.extras import needs_extra
from autoslim.core.folder_lock import FolderUse, refuse_other_use
from autoslim.core.run_folder import RunFolder
from autoslim.errors import BudgetError, OutputError
from autoslim.export.artifact import load
from autoslim.progress.choice import python_display
from autoslim.storage.output_place import OutputPlace
from workers.progress.callbacks import CallbackList, SearchCallback

with needs_extra("search", "autoslim.run_search"):
    from autoslim.api.front import Front
    from autoslim.report.text_table import html_table
    from workers.search.finalize import SelectedModel
    from workers.search.kept_output import read_job
    from workers.search.model_line import describe_model
    from workers.search.notified import run_notified
    from workers.search.summary import Summary
    from workers.search.summary_rows import summary_rows

if TYPE_CHECKING:
    from torch import nn


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What a search found: a model for each budget, and the front of all trials."""

    summary: Summary
    front: Front

    @property
    def folder(self) -> Path:
        """The output folder."""
        return Path(self.summary.output)

    @property
    def models(self) -> dict[str, SelectedModel]:
        """The delivered models by their budgets, such as `50%`, with accuracies, FLOPs and the folder."""
        return {model.label: model for model in self.summary.models}

    @property
    def missing(self) -> tuple[str, ...]:
        """Budgets that no complete trial is within."""
        return self.summary.missing

    def model(self, budget: str | None = None) -> nn.Module:
        """The model delivered for a budget, in eval mode on the CPU; without one, that of the only budget.

        Raises:
            BudgetError: where none was delivered for it; says which were.
        """
        label = next(iter(self.models), "") if budget is None else budget if budget in self.models else Budget.parse(budget).label
        if label not in self.models or (budget is None and len(self.models) > 1):
            delivered = ", ".join(self.models) or "none"
            raise BudgetError(f"budget {budget or 'None'}: allowed are those with a model: {delivered}")
        return load(self.models[label].folder)

    def report(self) -> Path:
        """The page on the search: models and why they were chosen, every trial, dense against slimmed, speed, cost, how to repeat it."""
        return RunFolder(self.folder).report

    def _repr_html_(self) -> str:
        heads, *rows = summary_rows(self.summary)
        return f"{html_table(heads, rows)}<p>{escape(str(self.report()))}</p>"

    def __repr__(self) -> str:
        models = "; ".join(f"{label}: {describe_model(model, self.summary)}" for label, model in self.models.items())
        return f"SearchResult({str(self.folder)!r}, {models or 'no model'})"


@with_settings(Commands.SEARCH, placement=True)
def run_search(
    model: Model | Sequence[Model],
    data: Data,
    flops: str | int | Sequence[str | int] = (),
    *,
    output: str | PathLike[str] = "runs/search",
    resume: bool = False,
    progress: str = "auto",
    callbacks: Sequence[SearchCallback] = (),
    **settings: Any,
) -> SearchResult:
    """Searches for the best model within each FLOPs budget, or the cheapest of an accuracy, in this process: `autoslim search` in Python.

    Args:
        model: A timm name, a folder in timm's hub format, or a timm model with its weights; several for several starts.
        data: As on the command line, or a torch `Dataset` of (image, label) without augmentation, or a mapping from `train`, `validation`
            and `test` to Datasets. Without a validation or test split, one is split off `train`.
        flops: Budgets such as `2.3G` or `50%`, in multiply-accumulates an image; none are needed with `max_drop` or `min_accuracy`.
        output: A new folder for everything that the search writes, or the URI of one, such as `s3://bucket/runs/flowers`.
        resume: Continues the search in `output`; `model`, `data` and `flops` are then those that it was started with.
        progress: `auto` shows bars in a notebook and elsewhere a line an event on stderr; `live`, `plain` and `none` as on the command
            line.
        callbacks: Follow the trials. One that raises an error ends the search.
        settings: Those of the command line, under their names with underscores: `trials=24`, `epochs=5`, `from_scratch=True`,
            `model_args={"depth": 6}`.

    Raises:
        AutoslimError: as the command line reports it; finished trials are kept, and `resume=True` continues from them. A budget without
            a model raises nothing: it is in `missing`.
        KeyboardInterrupt: after running trials have kept their checkpoints.
    """
    display, place = python_display(progress), OutputPlace.parse(output)
    folder, run_folder = place.folder, RunFolder(place.folder)
    # Before the inputs are written: a folder that is something else's is left as it is.
    refuse_other_use(folder, FolderUse.SEARCH)
    if not resume and place.uri is None and run_folder.job_file.exists():
        raise OutputError(f"{folder} holds a search already; give resume=True to continue it, or choose another output")
    with given_inputs(folder, run_folder.given) as given:
        models = [given.model(each) for each in _each(model)]
        values = {"model": models, "data": given.data(data), **({"flops": flops} if flops else {}), **settings}
        if resume:
            job = resumed_job(read_job(folder, place.uri), values, folder)
        else:
            job = new_job(values, folder).replace(output_uri=place.uri)
        given.place()
    with display:
        summary = run_notified(job, resume=resume, callback=CallbackList(callbacks), display=display)
    return SearchResult(summary, Front.open(folder))


def _each(model: Model | Sequence[Model]) -> Sequence[Model]:
    return [model] if isinstance(model, str) or not isinstance(model, Sequence) else model
