"""What a plan costs, checked before it is begun: a tenant must not keep the planner busy with one request.

Three numbers decide how long a plan takes: the images whose labels are read, the model's tokens and blocks, and the recipes that are
evaluated to find what the space can reach.
"""

from __future__ import annotations

from pathlib import Path

from autoslim.config import JobSpec
from autoslim.config.dense_models import entries_of
from autoslim.config.issues import Place, short_repr
from autoslim.core.job import WEIGHT_FILES, DatasetSpec
from autoslim.core.shape import ViTShape
from autoslim.data.sources import count_images
from autoslim.data.wanted import Wanted
from autoslim.errors import DatasetError, RequestError
from autoslim.models.dense import read_config
from autoslim.search import Space
from autoslim.search.feasibility import recipes_per_sweep
from autoslim.service.dry_run.faults import SpecFault
from autoslim.service.dry_run.model_arguments import RULES


def check_images(spec: JobSpec, most: int) -> None:
    """Raises SpecFault for a data set, or a probe, of more than `most` images, before its labels are read."""
    _check_images(("data",), spec.dataset_spec, most)
    if spec.probe is not None:
        _check_images(("probe",), DatasetSpec(source=spec.probe), most)


def _check_images(place: Place, dataset: DatasetSpec, most: int) -> None:
    try:
        found = count_images(dataset.source, most=most, wanted=Wanted.of(dataset))
    except DatasetError as error:
        raise SpecFault(place, str(error)) from None
    if found > most:
        raise SpecFault(
            place,
            f"has more than {most:,} images; allowed: at most {most:,} (limits.images); name a smaller data set, or ask the operator",
        )


def check_model_folders(spec: JobSpec) -> None:
    """Raises SpecFault for a folder whose config.json has arguments beyond those that a spec may give."""
    for place, name in model_places(spec):
        _check_model_folder(place, name)


def model_places(spec: JobSpec) -> list[tuple[Place, str]]:
    """The names of the models, and of a teacher that is none of them, each with its place in the spec."""
    names = entries_of(spec.model)
    places: list[tuple[Place, str]] = [
        (("model",) if isinstance(spec.model, str) else ("model", index), name) for index, name in enumerate(names)
    ]
    if spec.teacher is not None and spec.teacher not in names and not spec.teacher.endswith(WEIGHT_FILES):
        places.append((("teacher",), spec.teacher))
    return places


def _check_model_folder(place: Place, name: str) -> None:
    if "/" not in name:
        return
    try:
        arguments = read_config(Path(name)).get("model_args", {})
    except RequestError as error:
        raise SpecFault(place, str(error)) from None
    for argument, value in arguments.items():
        if argument in RULES and not RULES[argument][0](value):
            raise SpecFault(
                place, f"has a config.json whose model_args.{argument} is {short_repr(value)}; allowed: {RULES[argument][1]}"
            )


def check_attention(place: Place, shape: ViTShape, most: float) -> None:
    """Raises SpecFault for a model with more than `most` blocks times squared tokens, the weights of its attention per head."""
    found = sum(block.tokens * (block.window or block.tokens) for block in shape.blocks)
    if found > most:
        raise SpecFault(
            place,
            f"has {shape.depth} blocks of {shape.tokens:,} tokens, blocks x tokens^2 = {found:.3g}; allowed: at most {most:.3g} "
            f"(limits.attention); choose a smaller image_size than {shape.image_size[0]} or a larger patch_size",
        )


def check_recipes(spec: JobSpec, space: Space, shape: ViTShape, most: int) -> None:
    """Raises SpecFault for a space that has more than `most` recipes to evaluate in a sweep, counted once for every block."""
    found = shape.depth * recipes_per_sweep(space, shape)
    if found > most:
        raise SpecFault(
            ("space",),
            f"has {recipes_per_sweep(space, shape):,} values to try on {shape.depth} blocks, {found:,} together; allowed: at most "
            f"{most:,} (limits.recipes); give the knobs fewer choices, or the model fewer blocks",
        )
