"""Follows a search in TensorBoard: a run for each trial, with the curves of its epochs and its result.

`python examples/tensorboard_callback.py` searches on scikit-learn's digits; `tensorboard --logdir runs/tensorboard` shows it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import autoslim


class TensorBoard(autoslim.SearchCallback):
    """Writes below `folder`. Trials run side by side, so that each has a writer of its own."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._writers: dict[int, Any] = {}
        self._steps: dict[int, int] = {}

    def on_epoch_end(self, result, report) -> None:
        # Phases repeat epochs, and an epoch may be a fraction: the steps are the reports of the trial.
        step = self._steps[result.number] = self._steps.get(result.number, 0) + 1
        for name, value in report.metrics.items():
            self._writer(result).add_scalar(name, value, step)

    def on_trial_end(self, result, target) -> None:
        if result.accuracy is not None and result.flops is not None:
            writer = self._writer(result)
            writer.add_scalar("trial/accuracy", result.accuracy, 0)
            writer.add_scalar("trial/flops", result.flops, 0)
        if (writer := self._writers.pop(result.number, None)) is not None:
            writer.close()

    def _writer(self, result):
        if result.number not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            self._writers[result.number] = SummaryWriter(str(self._folder / f"{result.number:03d}-{result.recipe.method}"))
        return self._writers[result.number]


if __name__ == "__main__":
    from digits_search import search_digits

    print(search_digits(TensorBoard("runs/tensorboard"), "runs/tensorboard-search"))
