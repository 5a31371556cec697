"""What the sections of a search's report are made from: its store, and the folders of its models."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from autoslim.core.result import TrialResult
from autoslim.core.run_folder import RunFolder
from autoslim.core.score import Score
from autoslim.core.urls import hide_password
from autoslim.data import PreparedDataset
from autoslim.errors import AutoslimError
from autoslim.export.artifact import SlimConfig, load_config
from autoslim.report.search_report.environment import Environment, prepared_images, read_environment
from autoslim.report.search_view import SearchView
from autoslim.store import Store, StoredJob, StoredTrial

MOST_TRIALS = 1000
"""Trials in the chart and its table. front.html and trials.parquet have all."""

LONGEST = 300
"""Characters of an error in the report; the store has all of it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeliveredModel:
    """The model of a budget, in `folder`."""

    label: str
    trial: int
    folder: Path
    config: SlimConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchContent:
    """`models` are those that can be read, `unreadable` says of the others why not, by the budget's label. `dataset` is None where the
    prepared images are gone, `cost` is what the search cost so far, in words.
    """

    output: RunFolder
    stored: StoredJob
    trials: tuple[StoredTrial, ...]
    models: tuple[DeliveredModel, ...]
    unreadable: dict[str, str]
    environment: Environment | None
    dataset: PreparedDataset | None
    cost: str

    @property
    def score(self) -> Score:
        return self.stored.job.dataset.score

    @functools.cached_property
    def view(self) -> SearchView:
        """Of all trials."""
        results = tuple(_shortened(trial.result) for trial in self.trials)
        return SearchView(job=self.stored.job, base=self.stored.base, results=results, chosen=self.stored.chosen)

    def same_as(self, model: DeliveredModel) -> str | None:
        """The label of an earlier one of `models` that is the same model; None for the first. A fine-tuned one has another recipe."""
        known = (model.trial, model.config.recipe)
        first = next(other.label for other in self.models if (other.trial, other.config.recipe) == known)
        return None if first == model.label else first

    @property
    def validation_images(self) -> int | None:
        """How many images trials are judged on; None where neither the images nor a model say so."""
        if self.dataset is not None:
            return self.dataset.report.validation.images
        return next((model.config.images.get("validation") for model in self.models), None)


def read_content(output: RunFolder, store: Store, job_id: str, *, cost: str) -> SearchContent:
    """Of a search in any state. `output` is where its folder is now."""
    stored, trials = store.job(job_id), store.stored_trials(job_id)
    error = None if stored.error is None else hide_password(stored.error)
    stored = stored.replace(job=stored.job.replace(output=str(output.root)), error=error)
    models, unreadable = [], {}
    for label, number in stored.chosen.items():
        folder = output.model(label)
        try:
            models.append(DeliveredModel(label=label, trial=number, folder=folder, config=load_config(folder)))
        except AutoslimError as error:
            # The report is also written for folders that were emptied in part.
            unreadable[label] = str(error)
    environment = read_environment(output)
    return SearchContent(
        output=output,
        stored=stored,
        trials=tuple(trials),
        models=tuple(models),
        unreadable=unreadable,
        environment=environment,
        dataset=prepared_images(output, environment),
        cost=cost,
    )


def _shortened(result: TrialResult) -> TrialResult:
    if result.error is None:
        return result
    error = hide_password(result.error)
    return result.replace(error=error if len(error) <= LONGEST else f"{error[:LONGEST]}...")
