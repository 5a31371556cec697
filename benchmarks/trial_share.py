"""Which share of a trial is neither training nor evaluation, in a real search with one trial at a time.

    AUTOSLIM_DATA=... python benchmarks/trial_share.py --output runs/share [--images 4000] [--epochs 3] [--trials 6]

The search runs under Ray Tune with its store, MLflow and metrics; no trial is pruned. The worker measures the time of training (loading
batches, training steps, and what a method prepares for all its trials, which counts as epochs), of a method's fit to the training images
(importances, thresholds, least squares), and of evaluation on the validation images. The rest of the time between the ends of two trials
is overhead: proposing and solving, Ray, the store, building the model, checkpoints, counting FLOPs three times, saving. The first trial
also starts the worker and is listed separately.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from autoslim import methods
from autoslim.core.budget import Budget
from autoslim.core.job import DatasetSpec, ModelSpec, Resources, SearchJob
from autoslim.core.recipe import TrainingSettings
from autoslim.core.urls import default_url
from autoslim.store import Store
from autoslim.training import loop, measure
from workers.search import driver
from workers.search.tune_trainable import TrialTrainable

JOB = "trial-share"


class TimedTrial(TrialTrainable):
    """Writes `NUMBER.json` beside the trials' folders: seconds of training, of the method's fit, and of evaluation."""

    def setup(self, config: dict[str, Any]) -> None:
        self._watching = False
        self._spent = {"training": 0.0, "fit": 0.0, "evaluation": 0.0}
        measure.accuracy = self._timed("evaluation", measure.accuracy)
        loop.Trainer.train_segment = self._timed("training", loop.Trainer.train_segment)
        # Through the module: Ray copies what a script's class refers to by name, and the copy would be patched.
        for method in methods.METHODS.values():
            method.prepare = self._timed_steps("training", method.prepare)
            for name in ("attach", "prune", "calibrate"):
                setattr(method, name, self._timed("fit", getattr(method, name)))
        super().setup(config)

    def _begin(self, config: dict[str, Any]) -> None:
        self._spent = dict.fromkeys(self._spent, 0.0)
        self._left = Path(config["trial_folder"]).parent / f"{config['trial_number']}.json"
        super()._begin(config)

    @contextlib.contextmanager
    def _watch(self, name: str) -> Iterator[None]:
        """Nested sections count for the outermost one."""
        if self._watching:
            yield
            return
        self._watching, began = True, time.monotonic()
        try:
            yield
        finally:
            self._watching = False
            self._spent[name] += time.monotonic() - began

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            with self._watch(name):
                return function(*arguments, **named)

        return timed

    def _timed_steps(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Times a generator's own steps, without what its consumer does between them."""

        def timed(*arguments: Any, **named: Any) -> Generator[Any, None, Any]:
            steps = function(*arguments, **named)
            while True:
                with self._watch(name):
                    try:
                        step = next(steps)
                    except StopIteration as end:
                        return end.value
                yield step

        return timed

    def step(self) -> dict[str, Any]:
        result = super().step()
        if result["done"]:
            self._left.write_text(json.dumps(self._spent))
        return result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spent:
    """Seconds from the end of the previous trial (`whole`) and their parts; `inside` is the rest of the trial itself."""

    method: str
    whole: float
    training: float
    fit: float
    evaluation: float
    inside: float

    @property
    def between(self) -> float:
        """Ray, the searcher, the store, and everything else between two trials of a worker."""
        return self.whole - self.training - self.fit - self.evaluation - self.inside

    @property
    def overhead(self) -> float:
        return (self.inside + self.between) / self.whole


def search(arguments: argparse.Namespace, data: Path) -> None:
    job = SearchJob(
        id=JOB,
        model=ModelSpec(name=str(data / "vit-cifar10")),
        dataset=DatasetSpec(source=str(data / "cifar10"), validation_share=0.04, train_limit=arguments.images),
        budgets=(Budget.parse("50%"),),
        trials=arguments.trials,
        training=TrainingSettings(epochs=arguments.epochs),
        scheduler="none",
        final_share=0.0,
        speed=(),
        resources=Resources(cpu=1),
        concurrency=1,
        output=str(arguments.output),
    )
    driver.TrialTrainable = TimedTrial
    driver.run_search(job)


def spent(output: Path) -> list[Spent]:
    with Store(default_url(output)) as store:
        trials = [found for found in store.stored_trials(JOB) if found.result.artifact is not None]
    found, before = [], trials[0].started_at
    for stored in sorted(trials, key=lambda stored: stored.result.number):
        watch = json.loads((output / "trials" / f"{stored.result.number}.json").read_text())
        assert stored.ended_at is not None and stored.result.seconds is not None
        inside = stored.result.seconds - sum(watch.values())
        whole = _seconds(before, stored.ended_at)
        found.append(Spent(method=stored.result.recipe.method, whole=whole, inside=inside, **watch))
        before = stored.ended_at
    return found


def _seconds(begin: str, end: str) -> float:
    return (datetime.datetime.fromisoformat(end) - datetime.datetime.fromisoformat(begin)).total_seconds()


def table(found: list[Spent]) -> str:
    lines = [
        "| trial | seconds | training | the method's fit | evaluation | else in the trial | between trials | overhead |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for number, each in enumerate(found):
        lines.append(_line(f"{number} {each.method}" + (", starts the worker" if number == 0 else ""), each))
    rest = found[1:]
    total = Spent(
        method="",
        whole=sum(each.whole for each in rest),
        training=sum(each.training for each in rest),
        fit=sum(each.fit for each in rest),
        evaluation=sum(each.evaluation for each in rest),
        inside=sum(each.inside for each in rest),
    )
    return "\n".join([*lines, _line("all but the first", total, mark="**")])


def _line(name: str, each: Spent, *, mark: str = "") -> str:
    work = f"{each.training:.1f} | {each.fit:.1f} | {each.evaluation:.1f}"
    rest = f"{each.inside:.2f} | {each.between:.2f}"
    return f"| {name} | {each.whole:.1f} | {work} | {rest} | {mark}{each.overhead:.1%}{mark} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--trials", type=int, default=6)
    arguments = parser.parse_args()
    if "AUTOSLIM_DATA" not in os.environ:
        parser.error("AUTOSLIM_DATA must name the folder that holds cifar10/ and vit-cifar10/")
    arguments.output = arguments.output.absolute()
    search(arguments, Path(os.environ["AUTOSLIM_DATA"]).absolute())
    print(table(spent(arguments.output)))


if __name__ == "__main__":
    main()
