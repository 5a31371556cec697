"""docs/mlflow.md names what the code logs: every metric, parameter and tag, and none that there is not."""

from __future__ import annotations

import re

import pytest
import torch
from helpers.documents import ROOT
from helpers.sample_search import DENSE, add, fill, make_job, make_report, make_result

from autoslim.core.constraints import CostLimits
from autoslim.core.job import ModelSpec, Resources
from autoslim.core.result import SharedCost, TrialState, measurement_fields
from autoslim.core.urls import default_url
from autoslim.report.tracking.run_content import RunContent, epoch_points, job_content, trial_content
from autoslim.store import JobState, Store
from workers.search.system_metrics import SystemMetrics

PAGE = (ROOT / "docs" / "mlflow.md").read_text()
OURS = re.compile(r"autoslim\.|mlflow\.")
"""Tags for MLflow's pages and for finding runs again, which are no one's to filter by."""


def system_metrics() -> dict[str, float]:
    """What a worker with one GPU samples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "mem_get_info", lambda index: (3 * 10**9, 4 * 10**9))
        return SystemMetrics().sample()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunContent, list[RunContent], set[str]]:
    """A search that has everything that can be logged: its run, its trials' runs, and the curves' names."""
    limits = CostLimits(params=20_000_000, latency_ms=5.0)
    with Store(default_url(tmp_path_factory.mktemp("search"))) as store:
        model = ModelSpec(name="deit_tiny_patch16_224")
        job = make_job(limits=limits, resources=Resources(), more_models=(model,), teacher=model)
        fill(store, job)
        store.set_base(job.id, DENSE.replace(latency_ms=9.0, starts={"deit_small_patch16_224": DENSE}))
        everything = {name: make_result(0).measurements()[name] or kind(1) for name, (kind, _) in measurement_fields().items()}
        result = make_result(12, **everything)
        add(store, job.id, result.replace(recipe=result.recipe.replace(model="deit_small_patch16_224")))
        store.report(job.id, 12, make_report(4).replace(system=system_metrics()))
        store.add_shared_costs(job.id, [SharedCost(key="k", method="sit", settings={}, epochs=1.0, seconds=2.0)])
        add(store, job.id, make_result(13, TrialState.STOPPED, accuracy=0.5, stopped="below the others"))
        store.set_chosen(job.id, {"50%": 12})
        store.set_state(job.id, JobState.FAILED, error="the disk is full")
        stored, trials = store.job(job.id), store.stored_trials(job.id)
        curves = {point.name for point in epoch_points(store.stored_epochs(job.id, 12), [])}
    return job_content(stored, trials), [trial_content(stored, trial, parent="p", pareto=True) for trial in trials], curves


def documented(part: str, kind: str) -> set[str]:
    """The names in the first column of the table of `kind` (Metric, ...) below the line `part`."""
    text = PAGE.partition(f"\n{part}\n")[2]
    rows = re.search(rf"\| {kind} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text)
    assert rows is not None
    return {name for row in rows[1].splitlines() for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


def prefixed(names: set[str]) -> set[str]:
    """Settings of a record are documented together: `training.lr` as `training.*`."""
    return {re.sub(r"^(training|base|resources)\..*", r"\1.*", name) for name in names}


def test_the_page_names_what_a_searchs_run_has(runs: tuple[RunContent, list[RunContent], set[str]]) -> None:
    parent, part = runs[0], "The search's run:"
    metrics = {re.sub(r"^best_val_accuracy/.*", "best_val_accuracy/BUDGET", point.name) for point in parent.points}
    metrics = {re.sub(r"^(dense_\w+)/.*", r"\1/MODEL", name) for name in metrics}
    assert documented(part, "Metric") == metrics
    assert documented(part, "Parameter") == prefixed({*parent.params})
    assert documented(part, "Tag") == {name for name in parent.tags if not OURS.match(name)}


def test_the_page_names_what_a_trials_run_has(runs: tuple[RunContent, list[RunContent], set[str]]) -> None:
    _, trials, curves = runs
    curves = {re.sub(r"^system/gpu_0_", "system/gpu_N_", name) for name in curves}
    part = "A trial's run:"
    assert documented(part, "Metric") == {point.name for trial in trials for point in trial.points} | curves
    # A knob is a parameter under METHOD.KNOB.
    names = {re.sub(rf"^{trial.params['method']}\.\w+", "METHOD.KNOB", name) for trial in trials for name in trial.params}
    assert documented(part, "Parameter") == prefixed(names)
    assert documented(part, "Tag") == {name for trial in trials for name in trial.tags if not OURS.match(name)}


def test_the_page_filters_by_names_that_there_are(runs: tuple[RunContent, list[RunContent], set[str]]) -> None:
    _, trials, _ = runs
    used = set(re.findall(r"tags\.(\w+)", PAGE))
    assert used
    assert used <= {name for trial in trials for name in trial.tags}
