"""What a search is going to compute and to write, on any machine."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.sample_search import make_job

from autoslim.core.budget import Budget
from autoslim.core.job import SearchJob
from autoslim.core.recipe import TrainingSettings
from autoslim.search import Estimate, disk_use, estimate_work, expected_work, most_work

DENSE, PARAMETERS, IMAGES = 1_000_000, 250_000, 1000


def make(**changes: Any) -> SearchJob:
    given: dict[str, Any] = {
        "budgets": (Budget.parse("50%"),),
        "training": TrainingSettings(epochs=3.0),
        "base": TrainingSettings(epochs=10.0),
        "final_share": 0.0,
        "trials": 6,
    }
    return make_job(**{**given, **changes})


def estimated(job: SearchJob, **changes: Any) -> Estimate:
    given: dict[str, Any] = {"train_images": IMAGES, "dense_flops": DENSE, "budgets": [DENSE // 2], "parameters": PARAMETERS}
    return estimate_work(job, most_work(job), **{**given, **changes})


def test_a_training_step_costs_three_forward_passes_of_the_model_and_one_of_its_teacher():
    found = estimated(make(), adapts=False)
    assert (found.training_images, found.base_training_images) == (6 * 3 * IMAGES, 0)
    assert found.multiply_accumulates == found.training_images * (3 * DENSE // 2 + DENSE)


def test_the_dense_model_is_adapted_without_a_teacher():
    more = estimated(make()).multiply_accumulates - estimated(make(), adapts=False).multiply_accumulates
    assert more == 10 * IMAGES * 3 * DENSE


def test_the_refinement_gets_its_share_of_the_images():
    assert estimated(make(final_share=0.25)).training_images == pytest.approx(IMAGES * 6 * 3 / 0.75, rel=1e-3)


@pytest.mark.parametrize("scheduler", ["halving", "median", "none"])
def test_the_upper_bound_expects_no_early_stops(scheduler: str):
    job = make(scheduler=scheduler, trials=30, training=TrainingSettings(epochs=9.0))
    assert most_work(job) == expected_work(job.replace(scheduler="none"))
    assert expected_work(job).epochs <= most_work(job).epochs == 30 * 9


def test_the_peak_holds_what_stays_and_what_running_trials_write_beside_it():
    job = make(concurrency=3)
    use = disk_use(job, most_work(job), parameters=PARAMETERS, budget_share=0.5)
    assert use.peak > use.kept + 10 * 3 * 4 * PARAMETERS > use.kept > 4 * PARAMETERS
    more_slots = job.replace(concurrency=4)
    grown = disk_use(more_slots, most_work(more_slots), parameters=PARAMETERS, budget_share=0.5)
    assert (grown.kept, grown.peak) == (use.kept, use.peak + 10 * 4 * PARAMETERS)


def test_smaller_budgets_leave_smaller_models():
    job = make()
    small, large = (disk_use(job, most_work(job), parameters=PARAMETERS, budget_share=share) for share in (0.2, 0.8))
    assert small.kept < large.kept
    assert small.peak == large.peak
