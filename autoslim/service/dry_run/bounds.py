"""What a plan costs, checked before it is begun: a tenant must not keep the planner busy with one request.

Three numbers decide how long a plan takes: the images whose labels are read, the model's tokens and blocks, and the recipes that are
evaluated to find what the space can reach.
"""

from __future__ import annotations

from pathlib import Path

from autoslim.config import JobSpec
from autoslim.config.issues import short_repr
from autoslim.core.shape import ViTShape
from autoslim.data.sources import count_images
from autoslim.errors import DatasetError, RequestError
from autoslim.models.dense import read_config
from autoslim.search import Space
from autoslim.search.feasibility import recipes_per_sweep
from autoslim.service.dry_run.faults import SpecFault
from autoslim.service.dry_run.model_arguments import RULES


def check_images(spec: JobSpec, most: int) -> None:
    """Raises SpecFault for a data set of more than `most` images, before its labels are read."""
    try:
        found = count_images(spec.dataset_spec.source, most=most)
    except DatasetError as error:
        raise SpecFault(("data",), str(error)) from None
    if found > most:
        raise SpecFault(
            ("data",),
            f"has more than {most:,} images; allowed: at most {most:,} (limits.images); name a smaller data set, or ask the operator",
        )


def check_model_folder(spec: JobSpec) -> None:
    """Raises SpecFault for a folder whose config.json has arguments beyond those that a spec may give."""
    if "/" not in spec.model:
        return
    try:
        arguments = read_config(Path(spec.model)).get("model_args", {})
    except RequestError as error:
        raise SpecFault(("model",), str(error)) from None
    for name, value in arguments.items():
        if name in RULES and not RULES[name][0](value):
            raise SpecFault(
                ("model",), f"has a config.json whose model_args.{name} is {short_repr(value)}; allowed: {RULES[name][1]}"
            )


def check_attention(spec: JobSpec, shape: ViTShape, most: float) -> None:
    """Raises SpecFault for a model with more than `most` blocks times squared tokens, the weights of its attention per head."""
    found = sum(block.tokens * (block.window or block.tokens) for block in shape.blocks)
    if found > most:
        raise SpecFault(
            ("model",),
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
