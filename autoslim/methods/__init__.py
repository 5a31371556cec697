"""The slimming methods. A new one is a file and a line here; the registry is the test matrix."""

from autoslim.errors import UnsupportedModelError
from autoslim.methods.base import Brief, Finished, Lesson, Method, Workshop
from autoslim.methods.ceiling import Ceiling, binding, refuse_idle
from autoslim.methods.dps import DPS
from autoslim.methods.knob import Knob, Ranges
from autoslim.methods.life_regression import LifeRegression
from autoslim.methods.patch_slimming import PatchSlimming
from autoslim.methods.sit import SiT
from autoslim.methods.solver import Solved, evaluate, narrows, solve
from autoslim.methods.vit_slim import ViTSlim
from autoslim.plan import Plan
from autoslim.shape import ViTShape

METHODS: dict[str, Method] = {method.name: method for method in (LifeRegression(), PatchSlimming(), DPS(), SiT(), ViTSlim())}

__all__ = [
    "METHODS",
    "Brief",
    "Ceiling",
    "Finished",
    "Knob",
    "Lesson",
    "Method",
    "Ranges",
    "Solved",
    "Workshop",
    "binding",
    "evaluate",
    "narrowing",
    "narrows",
    "refuse_idle",
    "solve",
]


def narrowing(shape: ViTShape) -> list[str]:
    """The methods that can take parameters away from this model."""
    able = []
    for name, method in METHODS.items():
        try:
            method.check(shape)
        except UnsupportedModelError:
            continue
        if narrows(method, shape, Plan.dense(shape)):
            able.append(name)
    return able
