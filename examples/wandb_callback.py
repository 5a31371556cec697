"""Follows a search in Weights & Biases: a run for each trial, in a group for the search.

`python examples/wandb_callback.py` searches on scikit-learn's digits; with `WANDB_MODE=offline` it needs no account.
"""

from __future__ import annotations

from typing import Any

import autoslim


class WeightsAndBiases(autoslim.SearchCallback):
    """A trial's knobs are the configuration of its run, its measurements the summary."""

    def __init__(self, project: str) -> None:
        self._project = project
        self._group: str | None = None
        self._runs: dict[int, Any] = {}

    def on_search_start(self, search) -> None:
        self._group = search.job.id

    def on_trial_start(self, result, target) -> None:
        import wandb

        recipe = result.recipe
        config = {"methods": recipe.method, "target": target, **{k: v for step in recipe.steps for k, v in step.knobs.items()}}
        # Trials run side by side: without this, a run would end the one before.
        self._runs[result.number] = wandb.init(
            project=self._project,
            group=self._group,
            name=f"{result.number:03d} {recipe.method}",
            config=config,
            reinit="create_new",
        )

    def on_epoch_end(self, result, report) -> None:
        self._runs[result.number].log({"epoch": report.epoch, "phase": report.phase.value, **report.metrics})

    def on_trial_end(self, result, target) -> None:
        # A trial that needs no training never started.
        run = self._runs.pop(result.number, None)
        if run is not None:
            run.summary.update({"accuracy": result.accuracy, "flops": result.flops, "params": result.params})
            run.finish(exit_code=1 if result.error else 0)


if __name__ == "__main__":
    from digits_search import search_digits

    print(search_digits(WeightsAndBiases("autoslim"), "runs/wandb-search"))
