"""What a plan costs before anything is trained: FLOPs, parameters and latency, and whether it keeps to the request."""

from autoslim.cost.flop_counters import COUNTERS_AGREE_WITHIN, count_flops, count_flops_torch
from autoslim.cost.flops import Flops, predict
from autoslim.cost.grid import Grid
from autoslim.cost.latency_table import DENSE, Calibration, CalibrationModel, LatencyRequest, LatencyTable
from autoslim.cost.params import predict_params

__all__ = [
    "COUNTERS_AGREE_WITHIN",
    "DENSE",
    "Calibration",
    "CalibrationModel",
    "Flops",
    "Grid",
    "LatencyRequest",
    "LatencyTable",
    "count_flops",
    "count_flops_torch",
    "predict",
    "predict_params",
]
