"""FLOPs: measured on a model (`count_flops`) and predicted from a plan (`predict`)."""

from autoslim.flops.measure import COUNTERS_AGREE_WITHIN, count_flops, count_flops_torch
from autoslim.flops.predict import Flops, predict

__all__ = ["COUNTERS_AGREE_WITHIN", "Flops", "count_flops", "count_flops_torch", "predict"]
