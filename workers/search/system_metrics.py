"""`SystemMetrics`: what the machine of a worker is busy with, under MLflow's names of system metrics, without their prefix `system/`.

MLflow's own monitor samples the process that logs a run. Here that is the driver, which mirrors the store: the figures would be those of
another machine than the trial's. So each worker samples its own, once a report.
"""

from __future__ import annotations

import psutil
import torch

_MEGABYTE = 1e6


class SystemMetrics:
    """Shares are percentages of the whole machine, whatever part of it the trial was given."""

    def __init__(self) -> None:
        # The first call only sets the beginning of the time that the next one is the mean of.
        psutil.cpu_percent()

    def sample(self) -> dict[str, float]:
        """The CPUs' mean load since the last sample, and the memory in use now, of the machine and of the GPUs that the worker sees."""
        memory = psutil.virtual_memory()
        found = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / _MEGABYTE,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
        }
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            found[f"gpu_{index}_memory_usage_megabytes"] = (total - free) / _MEGABYTE
            found[f"gpu_{index}_memory_usage_percentage"] = 100 * (total - free) / total
        return {name: round(value, 1) for name, value in found.items()}
