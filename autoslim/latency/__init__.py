"""The latency of a plan, told from a table that was measured on the device (`autoslim.speed.latency` measures it)."""

from autoslim.latency.grid import Grid
from autoslim.latency.table import DENSE, Calibration, Candidate, LatencyRequest, LatencyTable

__all__ = ["DENSE", "Calibration", "Candidate", "Grid", "LatencyRequest", "LatencyTable"]
