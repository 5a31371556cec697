"""`Front`: the trials of a search, and which of them no other one surpasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoslim.core.budget import Budget, format_flops
from autoslim.core.model_facts import ModelFacts
from autoslim.core.recipe import title_of
from autoslim.core.result import ParetoFront, TrialResult
from autoslim.core.run_folder import RunFolder
from autoslim.core.score import Score
from autoslim.core.selection import best_within, eligible
from autoslim.errors import BudgetError
from autoslim.report.front_rows import front_rows
from autoslim.report.text_table import html_table
from autoslim.storage.output_place import OutputPlace
from autoslim.store import StoredJob, StoredTrial
from autoslim.store.of_folder import store_of
from workers.search.kept_output import viewed_folder

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from matplotlib.axes import Axes


@dataclasses.dataclass(frozen=True)
class Front:
    """The Pareto front of a search: complete trials that no other one surpasses in both accuracy and FLOPs.

    Iterating over it gives them, cheapest first. Accuracies are those on the validation images, or what `Score` the search compares;
    FLOPs are multiply-accumulates an image.
    """

    job: StoredJob
    stored: tuple[StoredTrial, ...]
    folder: Path | None = None

    @classmethod
    def open(cls, folder: str | PathLike[str]) -> Front:
        """The front of the search in an output folder, or at its URI, also while it runs.

        Raises:
            OutputError: when the folder holds no search.
        """
        place = OutputPlace.parse(folder)
        root = place.folder if place.uri is None else viewed_folder(place.uri)
        job = RunFolder(root).read_job()
        with store_of(root, job) as store:
            return cls(store.job(job.id), tuple(store.stored_trials(job.id)), root)

    @property
    def score(self) -> Score:
        """What the search compares."""
        return self.job.job.dataset.score

    def _shown(self, value: float | None) -> float:
        return (value or 0.0) / self.score.unit

    @property
    def trials(self) -> tuple[TrialResult, ...]:
        """All trials of the search, in the order of their numbers."""
        return tuple(trial.result for trial in self.stored)

    def __iter__(self) -> Iterator[TrialResult]:
        return iter(ParetoFront.of(self.trials).results)

    def __len__(self) -> int:
        return len(ParetoFront.of(self.trials).results)

    @property
    def dense_flops(self) -> int:
        """The dense model's, of the first one where the search has several."""
        assert self.job.base is not None
        return self.job.base.dense_flops

    def best(self, budget: str | int) -> TrialResult:
        """The most accurate trial within `budget`, such as `2.3G` or `50%` of the dense model, and within the job's other limits.

        It need not be on the front: where a trial was refined with several seeds, the recipe with the best mean counts.

        Raises:
            BudgetError: where no complete trial is within it; names the cheapest.
        """
        flops = Budget.parse(str(budget)).flops_of(self.dense_flops)
        limits = self.job.job.limits
        found = best_within(self.trials, flops, limits)
        if found is None:
            cheapest = min((trial.flops or 0 for trial in eligible(self.trials, limits)), default=None)
            has = "no trial is complete" if cheapest is None else f"the cheapest has {format_flops(cheapest)}"
            raise BudgetError(f"budget {budget}: no complete trial is within {format_flops(flops)}; {has}")
        return found

    @property
    def validation_images(self) -> int | None:
        """How many images the accuracies are measured on; None where that is not known yet."""
        if self.job.base is not None and self.job.base.validation_images is not None:
            return self.job.base.validation_images
        # The store of an earlier version does not say it, but a delivered model does.
        if self.folder is None:
            return None
        for label in self.job.chosen:
            facts = ModelFacts.read(RunFolder(self.folder).model(label))
            if facts is not None:
                return facts.images.get("validation")
        return None

    def _table(self) -> pa.Table:
        # Imported here, because the text on a terminal does without pyarrow.
        from autoslim.store.export import trials_table

        return trials_table(self.job, self.stored)

    def to_rows(self, *, all_trials: bool = False) -> list[dict[str, Any]]:
        """As `to_pandas`, as a dictionary a trial."""
        rows: list[dict[str, Any]] = self._table().to_pylist()
        return rows if all_trials else sorted((row for row in rows if row["pareto"]), key=lambda row: row["flops"])

    def to_pandas(self, *, all_trials: bool = False) -> pd.DataFrame:
        """A row a trial, with the columns of `trials.parquet`: those on the front, cheapest first, or all in the order of their numbers."""
        table = self._table().to_pandas()
        return table if all_trials else table[table["pareto"]].sort_values("flops", ignore_index=True)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Accuracy, or another score, over FLOPs of every complete trial by method, the front as a line, the dense model and the budgets.

        Needs matplotlib. `front.html` in the output folder is the same in more detail.
        """
        import matplotlib.pyplot as plt

        ax = plt.gca() if ax is None else ax
        complete = [trial for trial in self.trials if trial.flops is not None and trial.accuracy is not None]
        base = self.job.base
        largest = max([trial.flops or 0 for trial in complete] + [0 if base is None else base.dense_flops])
        prefix, unit = ("G", 1e9) if largest >= 1e9 else ("M", 1e6)

        def draw(trials: Sequence[TrialResult], how: Callable[..., object], **options: Any) -> None:
            how([(trial.flops or 0) / unit for trial in trials], [self._shown(trial.accuracy) for trial in trials], **options)

        for method in dict.fromkeys(trial.recipe.method for trial in complete):
            draw([trial for trial in complete if trial.recipe.method == method], ax.scatter, label=method, s=18)
        draw(list(self), ax.step, where="post", label="front")
        if base is not None:
            dense = [base.dense_flops / unit], [self._shown(base.dense_accuracy)]
            ax.scatter(*dense, marker="*", s=80, color="black", label="dense")
            for budget in self.job.job.budgets:
                ax.axvline(budget.flops_of(base.dense_flops) / unit, linestyle=":", linewidth=1, color="grey")
        ax.set_xlabel(f"multiply-accumulates an image, {prefix}")
        ax.set_ylabel(self.score.axis)
        ax.legend()
        return ax

    def table(self, *, all_trials: bool = False) -> list[tuple[str, ...]]:
        """Texts for people, heads first: the dense model and the trials on the front, cheapest first, or all trials."""
        trials = self.trials if all_trials else tuple(self)
        return front_rows(self.job, trials, folder=self.folder, validation_images=self.validation_images)

    def _repr_html_(self) -> str:
        head, *rows = self.table()
        return html_table(head, rows)

    def __repr__(self) -> str:
        points = ", ".join(
            f"{title_of(trial.recipe.method, trial.recipe.model)} {self.score.text(trial.accuracy or 0.0, 2)} at "
            f"{format_flops(trial.flops or 0)}"
            for trial in self
        )
        return f"Front({points})"
