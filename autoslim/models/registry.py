"""The families of dense models. A new one is a file and an entry in `FAMILIES`; `docs/developing/add-a-family.md` shows how."""

from __future__ import annotations

from torch import nn

from autoslim.core.shape import ViTShape
from autoslim.errors import UnsupportedModelError
from autoslim.models.beit import BeitFamily
from autoslim.models.eva import EvaFamily
from autoslim.models.family import Family
from autoslim.models.lvvit import LVViTFamily
from autoslim.models.naflex import NaFlexFamily
from autoslim.models.relpos import RelPosFamily
from autoslim.models.swin import SwinFamily
from autoslim.models.vision_transformer import PlainViT

FAMILIES: tuple[Family, ...] = (
    PlainViT(),
    LVViTFamily(),
    EvaFamily(),
    BeitFamily(),
    RelPosFamily(),
    NaFlexFamily(),
    SwinFamily(),
)

_TRANSFORMERS = ("vision_transformer_sam",)
"""timm's other modules of vision transformers, which users look for whether a family takes their models or not."""

MODULES = tuple(dict.fromkeys((*(module for family in FAMILIES for module in family.modules), *_TRANSFORMERS)))
"""Modules whose models are listed, as in `timm.list_models(module=...)`."""


def family_of(model: nn.Module) -> Family:
    """Raises UnsupportedModelError for a model of no family."""
    for family in FAMILIES:
        if type(model) in (*family.classes, *family.opened):
            return family
    known = ", ".join(sorted(kind.__name__ for family in FAMILIES for kind in family.classes))
    raise UnsupportedModelError(f"{type(model).__name__} is a model that no method can slim; supported: timm's {known}")


def read_shape(model: nn.Module) -> ViTShape:
    """The shape of a dense model. Raises UnsupportedModelError that names the part that no method can slim."""
    return family_of(model).read_shape(model)
