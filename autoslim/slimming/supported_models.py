"""Which methods can slim which of timm's vision transformers; from the registries, without any weights."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import gc
from collections.abc import Iterator

import timm

from autoslim.core.record import Record
from autoslim.errors import RequestError, UnsupportedModelError
from autoslim.methods import METHODS, refusals
from autoslim.models import shape_of_name
from autoslim.models.registry import MODULES


@dataclasses.dataclass(frozen=True, kw_only=True)
class SupportedModel(Record):
    """The methods that can slim timm's model `name`, and why the others cannot."""

    name: str
    methods: tuple[str, ...]
    refused: dict[str, str]


def supported_models(part: str = "") -> list[SupportedModel]:
    """Every vision transformer of timm with `part`, a text or a pattern, in its name.

    Raises:
        RequestError: when there is none.
    """
    names = [name for module in MODULES for name in timm.list_models(module=module) if fnmatch.fnmatch(name, f"*{part}*")]
    if not names:
        raise RequestError(f"timm has no vision transformer {part!r} in its name; `autoslim models` lists all")
    with _collecting_new_objects_only():
        return [supported_model(name) for name in names]


@contextlib.contextmanager
def _collecting_new_objects_only() -> Iterator[None]:
    """Keeps what exists already, above all torch and timm, out of garbage collections: each model has tens of thousands of objects, and
    collections that walk everything take a fifth of a list's time and more."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def supported_model(name: str) -> SupportedModel:
    try:
        refused = refusals(shape_of_name(name))
    except UnsupportedModelError as error:
        # Of the model itself: no method can slim it.
        refused = dict.fromkeys(METHODS, str(error))
    return SupportedModel(name=name, methods=tuple(method for method in METHODS if method not in refused), refused=refused)
