"""Trials of other models, which a search knows before its first trial.

`*.json`    a table per model, read by `table.py`; `benchmarks/prior_table.py` makes them from tables of real trials

A table says where its trials come from and how they were made. It has no weights and no images: of each trial the recipe, the plan as
shares of the dense model's, and the accuracy lost. A change of a table changes what a resumed search proposes next, as a change of a
sampler does.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
from collections.abc import Collection

from autoslim.core.record import Record
from autoslim.search.prior.table import PriorTable, PriorTrial

Prior = tuple[PriorTable, ...]
"""The tables that a search starts with."""


@functools.cache
def load_prior(name: str) -> Prior | None:
    """The tables of `auto`, all that are part of autoslim, in the order of their names; None for `none`."""
    if name == "none":
        return None
    folder = importlib.resources.files(__name__)
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".json")), key=lambda entry: entry.name)
    return tuple(PriorTable.from_json(file.read_text(encoding="utf-8")) for file in files)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PriorSize(Record):
    """How many trials of how many other models a search begins with."""

    trials: int = 0
    models: int = 0

    def describe(self, sampler: str, *, starts: int = 1) -> str:
        """A sentence without its end, about a search with so many dense models."""
        if not self.trials:
            return "the search begins without trials of other models"
        what = f"{self.trials} trials of {self.models} other model{'' if self.models == 1 else 's'}"
        if starts > 1:
            of_each = f"the first recipes of each dense model are the best of {what}"
            return (
                f"{of_each}; which model is better they cannot say, so the surrogate starts without"
                if sampler == "forest"
                else of_each
            )
        return f"the surrogate starts with {what}" if sampler == "forest" else f"the first recipes are the best of {what}"


def size_of(prior: Prior, methods: Collection[str]) -> PriorSize:
    """Of the trials whose methods are all among `methods`."""
    counts = [sum(trial.is_of(methods) for trial in table.trials) for table in prior]
    return PriorSize(trials=sum(counts), models=sum(count > 0 for count in counts))


__all__ = ["Prior", "PriorSize", "PriorTable", "PriorTrial", "load_prior", "size_of"]
