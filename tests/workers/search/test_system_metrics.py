"""What a worker's machine is busy with, under MLflow's own names."""

from __future__ import annotations

import torch
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor

from workers.search.system_metrics import SystemMetrics


def test_the_names_are_those_of_mlflows_own_monitor():
    monitor = CPUMonitor()
    monitor.collect_metrics()
    assert set(SystemMetrics().sample()) == set(monitor.aggregate_metrics())


def test_the_load_is_that_since_the_last_sample():
    metrics = SystemMetrics()
    sum(number * number for number in range(300_000))
    found = metrics.sample()
    assert 0 < found["cpu_utilization_percentage"] <= 100
    assert 0 < found["system_memory_usage_percentage"] < 100


def test_the_memory_of_every_gpu_that_is_seen_is_in_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: ((4 - index) * 10**9, 4 * 10**9))
    found = SystemMetrics().sample()
    assert [found[f"gpu_{index}_memory_usage_megabytes"] for index in (0, 1)] == [0.0, 1000.0]
    assert found["gpu_1_memory_usage_percentage"] == 25.0
