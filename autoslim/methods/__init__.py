"""The slimming methods. A new one is a folder and an entry in `_CLASSES`; the registry is the tests' matrix, too.

A method that has the name of a paper is the paper's, apart from what its page says. What is ours in it are values of knobs that are not the
defaults; one that a search is to try has a name of its own.
"""

from autoslim.core.plan import Plan
from autoslim.core.shape import ViTShape
from autoslim.cost.constraint_check import Constraints, binding, check_not_trivial
from autoslim.errors import UnsupportedModelError
from autoslim.methods.base import Method, SlimmedModel, StepContext
from autoslim.methods.dps.method import DPS
from autoslim.methods.knob import Knob, Ranges
from autoslim.methods.life_regression.merging import MergingLifeRegression
from autoslim.methods.life_regression.method import LifeRegression
from autoslim.methods.merge.method import Merge
from autoslim.methods.patch_slimming.merging import MergingPatchSlimming
from autoslim.methods.patch_slimming.method import PatchSlimming
from autoslim.methods.sit.method import SiT
from autoslim.methods.sit.seeded import SeededSiT
from autoslim.methods.solver import Solved, evaluate, narrows, solve
from autoslim.methods.trainer import DistillationBatch, SharedTrainer
from autoslim.methods.vit_slim.method import ViTSlim
from autoslim.methods.width.method import Width

_WITH_AN_OPTION: tuple[type[Method], ...] = (MergingLifeRegression, MergingPatchSlimming, SeededSiT)

_CLASSES: tuple[type[Method], ...] = (
    LifeRegression,
    PatchSlimming,
    DPS,
    SiT,
    Merge,
    ViTSlim,
    Width,
    *_WITH_AN_OPTION,
)

METHODS: dict[str, Method] = {method.name: method() for method in _CLASSES}
"""Every method by its name in recipes, search spaces and model folders."""

WITH_AN_OPTION = tuple(method.name for method in _WITH_AN_OPTION)
"""Those that are a paper's method with an option of ours: all of their code is that method's."""

__all__ = [
    "METHODS",
    "WITH_AN_OPTION",
    "Constraints",
    "DistillationBatch",
    "Knob",
    "Method",
    "Ranges",
    "SharedTrainer",
    "SlimmedModel",
    "Solved",
    "StepContext",
    "binding",
    "check_method",
    "check_not_trivial",
    "evaluate",
    "narrowing",
    "narrows",
    "refusals",
    "solve",
]


def refusals(shape: ViTShape) -> dict[str, str]:
    """The methods that cannot slim this model, each with the reason, in the registry's order."""
    reasons = {}
    for name, method in METHODS.items():
        try:
            method.check(shape)
        except UnsupportedModelError as error:
            reasons[name] = str(error)
    return reasons


def check_method(name: str, shape: ViTShape) -> None:
    """Raises UnsupportedModelError with what this method cannot slim, and which methods can."""
    refused = refusals(shape)
    if name in refused:
        able = ", ".join(other for other in METHODS if other not in refused)
        raise UnsupportedModelError(f"{refused[name]}; methods that take this model: {able or 'none'}")


def narrowing(shape: ViTShape) -> list[str]:
    """The methods that can take parameters away from this model."""
    refused, dense = refusals(shape), Plan.dense(shape)
    return [name for name, method in METHODS.items() if name not in refused and narrows(method, shape, dense)]
