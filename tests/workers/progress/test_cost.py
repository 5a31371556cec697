"""What a search has cost."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from helpers.sample_search import fill, make_job, make_report

from autoslim.core.job import Resources
from autoslim.core.result import SharedCost
from autoslim.core.urls import default_url
from autoslim.errors import JobError
from autoslim.store import Store
from workers.progress.cost import cost_of, finalize_seconds, folder_size, spent_seconds
from workers.progress.cost_recorder import handover_recorded


def test_the_device_is_the_gpu_where_trials_take_one():
    job = make_job(resources=Resources(cpu=4.0, gpu=0.5), price_per_hour=2.0)
    cost = cost_of(job, seconds=10.0, busy_seconds=7200.0, size=2 * 10**9)
    assert (cost.device, cost.device_hours, cost.money) == ("GPU", 1.0, 2.0)
    assert cost.describe() == "1 GPU hours, 2.00 at 2 an hour; 2 GB"
    cpus = cost_of(job.replace(resources=Resources(cpu=4.0), price_per_hour=None), seconds=1.0, busy_seconds=3600.0, size=0)
    assert (cpus.device, cpus.device_hours, cpus.money) == ("CPU", 4.0, None)


def test_trials_of_all_attempts_the_dense_model_and_handing_over_are_counted_and_duplicates_are_not(tmp_path: Path):
    job = make_job(str(tmp_path))
    with Store(default_url(tmp_path)) as store:
        fill(store, job)
        # Trials 0 to 6 are complete, 7 was stopped, 8 failed after 12 s, 10 is a duplicate, 11 is running and has reported.
        store.report(job.id, 11, make_report(4).replace(seconds=50.0))
        shared = {"settings": {}, "epochs": 1.0}
        store.add_shared_costs(job.id, [SharedCost(key="a", method="dense model", seconds=100.0, **shared)])
        store.add_shared_costs(job.id, [SharedCost(key="b", method="vit_slim", seconds=1000.0, **shared)])
        store.add_shared_costs(job.id, [SharedCost(key="c", method="handing over", seconds=30.0, **shared)])
        expected = sum(61.5 + number for number in range(7)) + 20.0 + 12.0 + 50.0 + 100.0 + 30.0
        assert spent_seconds(store, store.job(job.id)) == pytest.approx(expected)


def test_each_attempt_records_what_its_handing_over_took_also_where_it_fails(tmp_path: Path):
    job = make_job(str(tmp_path))
    with Store(default_url(tmp_path)) as store:
        store.create_job(job)
        store.begin_attempt(job.id)
        with pytest.raises(JobError), handover_recorded(store, job.id):
            time.sleep(0.01)
            raise JobError("no space")
        store.begin_attempt(job.id)
        with handover_recorded(store, job.id):
            pass
        first, second = store.job(job.id).shared
        assert {first.method, second.method} == {"handing over"}
        assert spent_seconds(store, store.job(job.id)) == pytest.approx(first.seconds + second.seconds)
        assert first.seconds >= 0.01


def test_a_folders_size_is_that_of_its_files_links_left_out(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"x" * 1000)
    (tmp_path / "c").write_bytes(b"x" * 10)
    (tmp_path / "d").symlink_to(tmp_path / "c")
    assert folder_size(tmp_path) == 1010


def test_handing_over_more_models_forms_and_speeds_takes_longer():
    job = make_job()
    one, none = job.replace(budgets=job.budgets[:1]), job.replace(speed=())
    assert finalize_seconds(job) > finalize_seconds(one) > 0
    assert finalize_seconds(job) > finalize_seconds(none) > 0
    assert finalize_seconds(job.replace(forms=("onnx", "onnx-int8"))) > finalize_seconds(job)
