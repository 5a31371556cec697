"""The slimming methods. A new one is a file and a line here; the registry is the test matrix."""

from autoslim.methods.base import Brief, Finished, Lesson, Method, Workshop
from autoslim.methods.dps import DPS
from autoslim.methods.knob import Knob, Ranges
from autoslim.methods.life_regression import LifeRegression
from autoslim.methods.patch_slimming import PatchSlimming
from autoslim.methods.sit import SiT
from autoslim.methods.solver import Solved, evaluate, solve
from autoslim.methods.vit_slim import ViTSlim

METHODS: dict[str, Method] = {method.name: method for method in (LifeRegression(), PatchSlimming(), DPS(), SiT(), ViTSlim())}

__all__ = ["METHODS", "Brief", "Finished", "Knob", "Lesson", "Method", "Ranges", "Solved", "Workshop", "evaluate", "solve"]
