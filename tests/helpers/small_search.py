"""The folder of a finished search of one trial, made in this process without Ray."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

from helpers.tiny import SIZES

from autoslim.core.budget import Budget
from autoslim.core.job import DatasetSpec, ModelSpec, SearchJob
from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe, Step, TrainingSettings
from autoslim.core.result import Origin, TrialResult, TrialState
from autoslim.core.run_folder import RunFolder
from autoslim.core.urls import default_url
from autoslim.cost import predict
from autoslim.data import prepare_dataset
from autoslim.methods import METHODS, solve
from autoslim.store import JobState, Store
from autoslim.training import TrialContext, prepare_base, run_trial
from workers.search.base_model import base_request

PLAIN: dict[str, Any] = {"batch_size": 32, "precision": "float32", "flip": False}


def end_of(reports: Generator[Any, None, Any]) -> Any:
    """What the generator returns."""
    while True:
        try:
            next(reports)
        except StopIteration as end:
            return end.value


def make_search(folder: Path) -> SearchJob:
    """A tiny ViT on a few digits, slimmed to 60 % by `merge` in one epoch; nothing is handed over yet."""
    job = SearchJob(
        id="digits-1",
        model=ModelSpec(name="deit_tiny_patch16_224", weights="scratch", args=SIZES),
        dataset=DatasetSpec(source="digits", train_limit=220),
        budgets=(Budget.parse("60%"),),
        training=TrainingSettings(epochs=1.0, lr=2e-3, **PLAIN),
        base=TrainingSettings(epochs=2.0, lr=3e-3, distillation=0.0, **PLAIN),
        speed=(),
        output=str(folder),
    )
    output = RunFolder(folder)
    folder.mkdir(parents=True)
    output.write_job(job)
    dataset = prepare_dataset(job.dataset, output.cache, seed=job.seed)
    request = base_request(job, job.model, dataset)
    base = output.base(request.digest())
    facts = end_of(prepare_base(base, request, dataset))
    context = TrialContext.open(base=base, dataset=dataset.path)
    recipe = _recipe(job, context)
    outcome = end_of(run_trial(recipe, context, output.trial(recipe.key), budget_label="60%"))
    result = TrialResult(
        number=0,
        recipe=recipe,
        origin=Origin.SAMPLER,
        state=TrialState.COMPLETE,
        artifact=str((output.trial(recipe.key) / "model").relative_to(folder)),
        **outcome.measurements(),
    )
    with Store(default_url(folder)) as store:
        store.create_job(job)
        store.begin_attempt(job.id)
        store.set_base(job.id, facts.replace(data=dataset.report.facts))
        store.add_trial(job.id, 0, recipe, origin=result.origin, target="60%")
        store.finish_trial(job.id, result)
        store.set_state(job.id, JobState.COMPLETE)
    return job


def _recipe(job: SearchJob, context: TrialContext) -> Recipe:
    shape = context.dense.shape
    plan = Plan.dense(shape)
    budget = int(0.6 * predict(shape, plan).total)
    knobs = solve(METHODS["merge"], shape, plan, {}, budget).knobs
    return Recipe(steps=(Step(method="merge", knobs=knobs),), budget=budget, training=job.training, seed=job.seed)
