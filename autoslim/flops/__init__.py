"""FLOPs: measured on a model (`count_flops`) and predicted from a plan (`predict`), as are its parameters (`predict_params`)."""

from autoslim.flops.measure import COUNTERS_AGREE_WITHIN, count_flops, count_flops_torch
from autoslim.flops.params import predict_params
from autoslim.flops.predict import Flops, predict

__all__ = ["COUNTERS_AGREE_WITHIN", "Flops", "count_flops", "count_flops_torch", "predict", "predict_params"]
