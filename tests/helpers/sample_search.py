"""A small search that has already happened: what the tests of store, report and tracking look at."""

from __future__ import annotations

import random
from typing import Any

from autoslim.core.budget import Budget
from autoslim.core.job import DatasetSpec, ModelSpec, SearchJob
from autoslim.core.recipe import Recipe, Step, TrainingSettings
from autoslim.core.result import BaseFacts, EpochReport, ErrorClass, Origin, Phase, Target, TrialResult, TrialState
from autoslim.store import JobState, Store

DENSE = BaseFacts(dense_flops=4_608_338_304, dense_accuracy=0.941, params=22_050_664, chance=0.1)
_METHODS = ("vit_slim", "life_regression", "patch_slimming", "sit")


def make_job(output: str = "/out/digits-1", **changes: Any) -> SearchJob:
    budgets = (Budget.parse("50%"), Budget.parse("70%"), Budget.parse("3G"))
    job = SearchJob(
        id="digits-1",
        model=ModelSpec(name="deit_small_patch16_224"),
        dataset=DatasetSpec(source="digits"),
        budgets=budgets,
        output=output,
    )
    return job.replace(**changes)


def make_recipe(number: int, method: str | None = None, budget: int = 2_304_169_152) -> Recipe:
    knobs: dict[str, Any] = {"rate": round(0.3 + number / 50, 3), "layers": [3, 6, 9], "ranking": "attention"}
    if number % 4 == 0:
        knobs["width_share"] = 1 if number == 0 else 0.25 * number
    steps = tuple(Step(method=name, knobs=knobs) for name in (method or _METHODS[number % 4]).split("+"))
    return Recipe(steps=steps, budget=budget, training=TrainingSettings(lr=5e-4 + number * 1e-5), seed=number)


def make_result(number: int, state: TrialState = TrialState.COMPLETE, **changes: Any) -> TrialResult:
    result = TrialResult(
        number=number, recipe=make_recipe(number), origin=Origin.CONTROL if number < 4 else Origin.SAMPLER, state=state
    )
    if state is TrialState.COMPLETE:
        flops = (2_304_000_000, 3_225_000_000, 2_999_000_000)[number % 3] - number * 11_000_000
        accuracy = 0.96 - 0.12 * (4.7e9 - flops) / 4.7e9 - random.Random(number).random() * 0.08
        measured: dict[str, Any] = {"accuracy": accuracy, "accuracy_after_pruning": accuracy / 2}
        measured |= {"flops": flops, "flops_predicted": flops, "params": 11_000_000 + number, "seconds": 61.5 + number}
        measured |= {"epochs": 3.0, "artifact": f"trials/{number}/model"}
        result = result.replace(**measured)
    return result.replace(**changes)


def make_results() -> list[TrialResult]:
    """Twelve trials: eight complete, one of them a duplicate, and one each of stopped, failed, infeasible and running."""
    results = [make_result(number) for number in range(7)]
    results.append(make_result(7, TrialState.STOPPED, accuracy=0.61, flops=2_900_000_000, epochs=1.0, seconds=20.0))
    results.append(make_result(8, TrialState.FAILED, error_class=ErrorClass.DIVERGED, error="the loss is nan", seconds=12.0))
    results.append(make_result(9, TrialState.INFEASIBLE, error_class=ErrorClass.INFEASIBLE, error="needs 9 GB"))
    results.append(results[4].replace(number=10, duplicate_of=4, seconds=0.0))
    results.append(make_result(11, TrialState.RUNNING))
    return results


def target_of(number: int) -> str:
    return Target.FREE if number == 6 else ("50%", "70%", "3G")[number % 3]


def fill(store: Store, job: SearchJob, results: list[TrialResult] | None = None) -> None:
    """Takes `job` through its search, up to the point where one trial is still running."""
    store.create_job(job)
    store.begin_attempt(job.id)
    store.set_base(job.id, DENSE)
    for result in make_results() if results is None else results:
        add(store, job.id, result)


def add(store: Store, job_id: str, result: TrialResult, *, epochs: int = 3) -> None:
    store.add_trial(job_id, result.number, result.recipe, origin=result.origin, target=target_of(result.number))
    if result.duplicate_of is None:
        for epoch in range(1, epochs + 1):
            store.report(job_id, result.number, make_report(epoch))
    if result.state is not TrialState.RUNNING:
        store.finish_trial(job_id, result)


def make_report(epoch: float, phase: Phase = Phase.FINETUNE, **metrics: float) -> EpochReport:
    return EpochReport(
        epoch=float(epoch), phase=phase, metrics={"loss": 2.0 / (1 + epoch), "accuracy": 0.5 + epoch / 10} | metrics
    )


def end(store: Store, job_id: str, state: JobState = JobState.COMPLETE) -> None:
    store.set_state(job_id, state)
