"""Training: the dense base model, one trial in four phases, evaluation."""

from autoslim.training.base_model import BaseRequest, prepare_base
from autoslim.training.context import TrialContext
from autoslim.training.evaluate import accuracy
from autoslim.training.trial import run_trial

__all__ = ["BaseRequest", "TrialContext", "accuracy", "prepare_base", "run_trial"]
