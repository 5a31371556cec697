"""The model that the numbers speak for, in a sentence: the cheapest within the noise of the best."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoslim.core.budget import format_flops

if TYPE_CHECKING:
    # Ray comes with them.
    from workers.search.summary import Summary


def describe_recommended(summary: Summary) -> str:
    """Empty where features are compared, and where no trial is within a budget."""
    found = summary.within_noise
    if found is None:
        return ""
    label = next((model.label for model in summary.models if model.trial == found.trial), None)
    where = f"trial {found.trial} ({found.title})" if label is None else f"{label}, trial {found.trial} ({found.title})"
    if found.trial == found.best and found.cheaper == 0:
        return f"The numbers speak for {where}: it is the most accurate, and no trial is cheaper"
    if found.trial == found.best:
        return f"The numbers speak for {where}: every cheaper trial is measurably less accurate than this best one"
    interval, images = found.interval, found.images
    return (
        f"The numbers speak for {where}: at {format_flops(found.flops)} the cheapest within the noise of the best, trial {found.best} "
        f"({interval.value:.2%}, {interval.low:.1%} to {interval.high:.1%} on {images:,} validation images)"
    )
