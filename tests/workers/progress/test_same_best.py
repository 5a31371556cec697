"""Everything that names the best trial within a budget names the same one, at every moment of a search."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers.sample_search import DENSE, make_job, make_recipe

from autoslim.core.budget import Budget
from autoslim.core.constraints import CostLimits
from autoslim.core.result import Origin, TrialResult, TrialState
from autoslim.core.run_folder import RunFolder
from autoslim.core.selection import best_within_budgets
from autoslim.core.urls import default_url
from autoslim.progress.display import Display, LineDisplay
from autoslim.report import render_front
from autoslim.report.tracking.run_content import job_content
from autoslim.service.public_text import PublicText
from autoslim.service.schemas import job_response
from autoslim.service.settings import ServiceSettings
from autoslim.service.stored_specs import StoredSpecs
from autoslim.store import Queue, QueueState, Store
from workers.progress.callbacks import SearchInfo
from workers.progress.console import Console
from workers.progress.metrics import SearchMetrics
from workers.search.base_model import AdaptedModel
from workers.search.dense_models import DenseModels
from workers.search.finalize import delete_unselected_models
from workers.search.latency import select_within_latency
from workers.search.prepare import PreparedSearch
from workers.service.job_events import JobEvents
from workers.service.log_tee import LogTee

JOB = make_job(budgets=(Budget.parse("50%"), Budget.parse("70%"), Budget.parse("100%")), limits=CostLimits(params=20_000_000))
BUDGETS = JOB.budget_flops(DENSE.dense_flops)
SPEC = json.dumps({"model": "deit_small_patch16_224", "data": "digits", "flops": ["50%", "70%", "100%"]})


def complete(number: int, share: float, accuracy: float, *, budget: str = "50%", seed: int = 0, **changes: Any) -> TrialResult:
    """A trial whose model has `share` of the dense FLOPs, by a recipe that was solved for `budget`."""
    recipe = make_recipe(changes.pop("knobs", number), budget=BUDGETS[budget]).replace(seed=seed)
    result = TrialResult(number=number, recipe=recipe, origin=Origin.SAMPLER, state=TrialState.COMPLETE)
    measured: dict[str, Any] = {"flops": int(share * DENSE.dense_flops), "params": 10_000_000, "epochs": 3.0, "seconds": 1.0}
    return result.replace(**{**measured, "accuracy": accuracy, "artifact": f"trials/{number}/model", **changes})


def refined(number: int, knobs: int, seed: int, accuracy: float) -> TrialResult:
    return complete(number, 0.69, accuracy, budget="70%", seed=seed, knobs=knobs, origin=Origin.REFINEMENT)


RESULTS = [
    # Solved for 70 %, and less accurate than what follows for 50 %.
    complete(0, 0.69, 0.958, budget="70%", origin=Origin.CONTROL),
    complete(1, 0.49, 0.972),
    # A free trial: its own FLOPs were its budget.
    complete(2, 0.45, 0.973),
    # The most accurate of all has too many parameters; the next one is no model, and the last one the same model again.
    complete(3, 0.48, 0.990, params=30_000_000),
    complete(4, 0.40, 0.985, state=TrialState.STOPPED, stopped="a third"),
    complete(5, 0.45, 0.973, knobs=2, duplicate_of=2),
    # Equally accurate, and costlier.
    complete(6, 0.47, 0.973),
    # Of the two recipes the second has the better mean; the best seed of the first is left out.
    refined(7, 0, 0, 0.980),
    refined(8, 0, 1, 0.960),
    refined(9, 1, 0, 0.975),
    refined(10, 1, 1, 0.974),
]
BEST = {"50%": 2, "70%": 9, "100%": 9}


class Sinks:
    """A search's results, written to a store and told to all callbacks, as a driver does it."""

    def __init__(self, root: Path, results: list[TrialResult]) -> None:
        self.url, self.stream, self.gauges = default_url(root), io.StringIO(), {}
        self.queue, self.store = Queue(self.url), Store(self.url)
        self.job = JOB.replace(id=self.queue.submit(SPEC, tenant="me")[0].id, output=str(root))
        claim = self.queue.claim("supervisor", 60)
        assert claim is not None
        self.claim = self.queue.adopt(self.job.id, claim.attempt, "driver", 60)
        self.queue.transition(self.claim, QueueState.SEARCHING)
        self.store.create_job(self.job)
        self.store.begin_attempt(self.job.id)
        self.store.set_base(self.job.id, DENSE)
        callbacks = [
            Console(self.job, LineDisplay(self.stream)),
            SearchMetrics(lambda name, value, tags: self.gauges.update({(name, tags.get("budget")): value})),
            JobEvents(self.queue, self.claim, LogTee(io.StringIO()), abandon=pytest.fail),
        ]
        search = SearchInfo(job=self.job, budgets=BUDGETS, base=DENSE)
        for callback in callbacks:
            callback.on_search_start(search)
        for result in results:
            self.store.add_ended_trial(self.job.id, result, target="50%")
            for callback in callbacks:
                callback.on_trial_end(result, "50%")

    def named(self, root: Path) -> dict[str, dict[str, int]]:
        """The trial's number by the budget's label, as each of them says it."""
        progress = self.store.progress([self.job.id])[self.job.id]
        settings = ServiceSettings(storage=self.url)
        job = self.queue.get(self.job.id)
        told = {"spec": {}, "facts": StoredSpecs().facts(job.spec), "settings": settings, "public": PublicText(settings)}
        view = job_response(job, progress, queue_position=None, **told)
        events = [event.data for event in self.queue.events(self.job.id) if event.type == "best"]
        prepared: Any = dataclasses.replace(_PREPARED, job=self.job, output=RunFolder(root), budgets=BUDGETS)
        dense, console = DenseModels({"": AdaptedModel(root, DENSE)}, {}), Console(self.job, Display())
        selected, _ = select_within_latency(prepared, self.store, dense=dense, console=console)
        return {
            "the selection": {label: result.number for label, result in selected.items()},
            "the console": _in_last_line(self.stream.getvalue()),
            "the events": {event["label"]: event["trial"] for event in events},
            "the store": {label: result.number for label, result in progress.best.items()},
            "HTTP": {label: best.trial for label, best in view.progress.best.items()},
        }

    def accuracies(self) -> dict[str, dict[str, float]]:
        """Where only the accuracy is shown."""
        points = job_content(self.store.job(self.job.id), self.store.stored_trials(self.job.id)).points
        labels = {label.replace("%", "pct"): label for label in BUDGETS}
        return {
            "Ray's metrics": {
                str(label): value for (name, label), value in self.gauges.items() if name == "autoslim_best_accuracy"
            },
            "MLflow": {labels[p.name.partition("/")[2]]: p.value for p in points if p.name.startswith("best_val_accuracy/")},
        }

    def close(self) -> None:
        self.queue.close()
        self.store.close()


class _Proposer:
    timer = None


_PREPARED: Any = PreparedSearch(
    job=JOB,
    output=None,
    dataset=None,
    dense=None,
    dense_flops=DENSE.dense_flops,
    starts={},
    budgets={},
    proposer=_Proposer(),  # type: ignore[arg-type]
)


def _in_last_line(text: str) -> dict[str, int]:
    found = re.findall(r"([\w.%]+) [\d.]+% \(trial (\d+)\)", text.splitlines()[-1].rpartition("| best ")[2])
    return {label: int(number) for label, number in found}


@pytest.mark.parametrize("ended", range(1, len(RESULTS) + 1))
def test_all_of_them_name_the_same_trial_after_every_trial_that_ends(tmp_path: Path, ended: int):
    sinks = Sinks(tmp_path, RESULTS[:ended])
    best = best_within_budgets(RESULTS[:ended], BUDGETS, JOB.limits)
    named, accuracies = sinks.named(tmp_path), sinks.accuracies()
    sinks.close()
    for name, numbers in named.items():
        assert numbers == {label: result.number for label, result in best.items()}, name
    for name, values in accuracies.items():
        assert values == {label: result.accuracy for label, result in best.items()}, name


def test_the_best_of_the_whole_search_is_the_one_that_the_rule_says():
    best = best_within_budgets(RESULTS, BUDGETS, JOB.limits)
    assert {label: result.number for label, result in best.items()} == BEST


def test_a_model_for_a_larger_budget_is_never_less_accurate():
    shares = [result.accuracy or 0.0 for result in best_within_budgets(RESULTS, BUDGETS, JOB.limits).values()]
    assert shares == sorted(shares)


def test_the_page_says_how_much_of_the_budget_each_model_uses():
    page = render_front(JOB, DENSE, RESULTS, BEST)
    assert "50%: trial 2" in page
    assert "it uses 90.0% of the budget" in page
    assert "it uses 69.0% of the budget" in page


def test_the_selected_models_are_kept_where_others_are_deleted(tmp_path: Path):
    for result in RESULTS:
        (tmp_path / "trials" / str(result.number) / "model").mkdir(parents=True)
    delete_unselected_models(RunFolder(tmp_path), RESULTS, set(BEST.values()))
    assert {2, 9} <= {int(folder.name) for folder in (tmp_path / "trials").iterdir()}
