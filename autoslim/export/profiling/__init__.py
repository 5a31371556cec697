"""Measures slimmed models beside the dense one on this machine: speed, latency, and the table that predicts it."""

from autoslim.export.profiling.benchmark import measure_in_subprocess
from autoslim.export.profiling.check import check_in_subprocess
from autoslim.export.profiling.hardware import hardware
from autoslim.export.profiling.in_subprocess import LATENCY_TABLES, kept_table, measure_table_in_subprocess

__all__ = [
    "LATENCY_TABLES",
    "check_in_subprocess",
    "hardware",
    "kept_table",
    "measure_in_subprocess",
    "measure_table_in_subprocess",
]
