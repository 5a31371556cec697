"""Overhead of a trial that trains nothing: autoslim, Ray Tune with its OptunaSearch, and Optuna alone, interleaved.

    python benchmarks/trial_overhead.py [--trials 40] [--rounds 3] [--history 0 200 1000]

autoslim's is a search with Ray Tune, searcher, scheduler, store and recipes of the space `default`, two trials at a time, with a trainable
that reports one epoch and ends. Ray Tune's is a trainable that reports once, with and without reused actors. Optuna alone asks, suggests
and tells in one process. `--history` measures searcher, scheduler and store after so many earlier trials.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from autoslim.core.budget import Budget
from autoslim.core.job import DatasetSpec, ModelSpec, Resources, SearchJob
from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe, TrainingSettings
from autoslim.core.result import BaseFacts, EpochReport, Outcome, Phase
from autoslim.core.run_folder import RunFolder
from autoslim.core.shape import ViTShape
from autoslim.core.urls import default_url
from autoslim.cost import predict
from autoslim.search import Proposer, load_space, make_pruner
from autoslim.store import Store
from workers.search.cluster import connect
from workers.search.coordinator import Coordinator
from workers.search.nodes import usable_nodes
from workers.search.slots import Slots
from workers.search.tune_run import run_trials
from workers.search.tune_searcher import CoordinatorSearcher

SHAPE = ViTShape(
    image_size=(32, 32), grid=(8, 8), patch_inputs=48, prefix_tokens=1, depth=6, dim=192, heads=3, head_width=64, hidden=768,
    classes=10, classifiers=1, pool="token", pre_norm=False, final_norm=True, pooled_norm=False, qk_norm=False,
)  # fmt: skip
DENSE = predict(SHAPE, Plan.dense(SHAPE)).total
SLOTS = 2


def synthetic_accuracy(recipe: Recipe) -> float:
    return int(recipe.key, 16) % 1000 / 1000


def report(recipe: Recipe) -> EpochReport:
    return EpochReport(
        epoch=1.0, phase=Phase.FINETUNE, metrics={"accuracy": synthetic_accuracy(recipe), "loss": 1.0}, seconds=0.0
    )


def outcome(recipe: Recipe) -> Outcome:
    return Outcome(
        recipe=recipe, accuracy=synthetic_accuracy(recipe), accuracy_after_pruning=0.5, flops=recipe.budget, flops_predicted=recipe.budget,
        flops_mean=recipe.budget, flops_max=recipe.budget, params=1, epochs=1.0, seconds=0.0,
    )  # fmt: skip


class Trivial(tune.Trainable):
    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._recipe, self._reported = Recipe.from_json(new_config["recipe"]), False
        return True

    def step(self) -> dict[str, Any]:
        if self._reported:
            return {"outcome": outcome(self._recipe).to_json(), "done": True}
        self._reported = True
        return {"report": report(self._recipe).to_json(), "done": False}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        return None

    def load_checkpoint(self, checkpoint: Any) -> None:
        return None


class Once(tune.Trainable):
    def setup(self, config: dict[str, Any]) -> None:
        self._x = config["x"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._x = new_config["x"]
        return True

    def step(self) -> dict[str, Any]:
        return {"accuracy": self._x, "flops": 1 - self._x, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        return None

    def load_checkpoint(self, checkpoint: Any) -> None:
        return None


_proposer: list[Proposer] = []


def proposer(job: SearchJob) -> Proposer:
    """One for all runs: a search works out its feasible methods once, before the first trial."""
    if not _proposer:
        budgets = {budget.label: budget.resolve(DENSE) for budget in job.budgets}
        _proposer.append(Proposer(space=load_space("default"), shape=SHAPE, budgets=budgets, training=job.training, seed=0))
        _proposer[0].feasible_methods  # noqa: B018
    return _proposer[0]


@contextlib.contextmanager
def coordinator(trials: int) -> Iterator[Coordinator]:
    with tempfile.TemporaryDirectory() as folder:
        job = SearchJob(
            id="overhead", model=ModelSpec(name="vit"), dataset=DatasetSpec(source="none"), trials=trials, output=folder,
            budgets=(Budget.parse("70%"), Budget.parse("50%")), training=TrainingSettings(epochs=3.0), final_share=0.0,
        )  # fmt: skip
        facts = BaseFacts(dense_flops=DENSE, dense_accuracy=0.9, params=1, chance=0.1)
        with Store(default_url(folder)) as store:
            store.create_job(job)
            store.begin_attempt(job.id)
            pruner = make_pruner(job.scheduler, epochs=3.0, chance=0.1)
            yield Coordinator(job, store, proposer(job), RunFolder(Path(folder)), (), pruner=pruner, base=facts, slots=SLOTS)


def ours(trials: int) -> None:
    with coordinator(trials) as ready:
        slots = Slots(Resources(), most=trials, concurrency=SLOTS, follows=False, nodes=usable_nodes)
        searcher = CoordinatorSearcher(ready, slots, {})
        shutdown = contextlib.nullcontext()
        run_trials(Trivial, searcher, name="overhead", resources=Resources(), slots=slots, shutdown=shutdown)
        assert sum(r.state.value in ("complete", "stopped") for r in ready.store.trials("overhead")) > trials / 2


def stock(trials: int, *, reuse: bool) -> None:
    space = {f"knob_{i}": tune.uniform(0, 1) for i in range(7)} | {"x": tune.uniform(0, 1)}
    with tempfile.TemporaryDirectory() as folder:
        tune.Tuner(
            Once,
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearch(space, metric=["accuracy", "flops"], mode=["max", "min"]),
                num_samples=trials, max_concurrent_trials=SLOTS, reuse_actors=reuse,
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()  # fmt: skip


def plain(trials: int) -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.TPESampler(seed=0))
    for _ in range(trials):
        trial = study.ask()
        drawn = [trial.suggest_float(f"knob_{i}", 0, 1) for i in range(8)]
        study.tell(trial, [drawn[0], 1 - drawn[0]])


def seconds(run: Callable[[int], None], trials: int) -> float:
    """Seconds of one more trial, so that start and end do not count."""
    taken = []
    for count in (4, 4 + trials):
        began = time.perf_counter()
        run(count)
        taken.append(time.perf_counter() - began)
    return (taken[1] - taken[0]) / trials


def coordinator_milliseconds(history: int, trials: int = 60) -> list[tuple[float, float]]:
    """Milliseconds of each of `trials` trials after `history` others: of the proposal, and of the report and the result.

    60 trials include the work that is done only once in several trials: fitting a forest, solving a pool of draws.
    """
    with coordinator(history + 10 * trials) as ready:
        taken = []
        while len(taken) < trials + history:
            began = time.perf_counter()
            assignment = ready.next_trial()
            assert assignment is not None
            proposed = time.perf_counter()
            if ready.report(assignment.number, report(assignment.recipe)):
                ready.complete(assignment.number, outcome(assignment.recipe))
            taken.append((1e3 * (proposed - began), 1e3 * (time.perf_counter() - proposed)))
        return taken[history:]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--trials", type=int, default=40)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--history", type=int, nargs="*", default=[0, 200, 1000])
    options = arguments.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print("| trials before | proposal, ms: mean, median | report and result, ms | together, mean |\n|---|---|---|---|")
    for history in options.history:
        proposals, writes = zip(*coordinator_milliseconds(history), strict=True)
        mean, median, written = statistics.fmean(proposals), statistics.median(proposals), statistics.fmean(writes)
        print(f"| {history} | {mean:.1f}, {median:.1f} | {written:.1f} | {mean + written:.1f} |", flush=True)
    if options.rounds:
        compare(options.trials, options.rounds)


def compare(trials: int, rounds: int) -> None:
    variants: dict[str, Callable[[int], None]] = {
        "autoslim (Ray Tune, reused actors, store)": ours,
        "Ray Tune + OptunaSearch": lambda count: stock(count, reuse=False),
        "Ray Tune + OptunaSearch, reused actors": lambda count: stock(count, reuse=True),
        "Optuna alone": plain,
    }
    found: dict[str, list[float]] = {name: [] for name in variants}
    with connect("local", name="overhead"):
        for run in variants.values():
            run(4)
        for _ in range(rounds):
            for name, run in variants.items():
                found[name].append(seconds(run, trials))
    print("\n| | seconds a trial, median | lowest | highest |\n|---|---|---|---|")
    for name, taken in found.items():
        print(f"| {name} | {statistics.median(taken):.3f} | {min(taken):.3f} | {max(taken):.3f} |")


if __name__ == "__main__":
    main()
