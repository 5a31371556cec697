"""A slimmed model beside its dense one: what the command line prints and a notebook shows."""

from __future__ import annotations

from autoslim.core.budget import format_flops
from autoslim.core.figures import format_millions
from autoslim.core.score import SCORES
from autoslim.export.artifact import load_config
from autoslim.report.beside_dense import describe_accuracy, describe_speed
from autoslim.slimming.run import Slimmed


def slimmed_rows(slimmed: Slimmed) -> list[tuple[str, ...]]:
    """The heads, the dense model and the slimmed one."""
    score, validation, test = SCORES[slimmed.score], slimmed.images.get("validation"), slimmed.images.get("test")
    heads = (f"validation {score.title}{score.interval_unit(validation)}", f"test {score.title}{score.interval_unit(test)}")
    return [
        ("model", "FLOPs", "of budget", "of dense", "params", *heads),
        (
            "dense",
            format_flops(slimmed.dense_flops),
            "",
            "",
            format_millions(slimmed.dense_params),
            score.with_interval(slimmed.dense_validation_accuracy, validation),
            score.with_interval(slimmed.dense_test_accuracy, test),
        ),
        (
            slimmed.method,
            format_flops(slimmed.flops or 0),
            f"{slimmed.budget_share:.2%}",
            f"{(slimmed.flops or 0) / slimmed.dense_flops:.1%}",
            format_millions(slimmed.params or 0),
            score.with_interval(slimmed.accuracy or 0.0, validation),
            score.with_interval(slimmed.test_accuracy, test),
        ),
    ]


def slimmed_line(slimmed: Slimmed) -> str:
    """`50%: test 71.10% (70.2% to 72.0%), 1.9 points below the dense model; 1.62 times as fast (eager, CPU, batch 1)`."""
    score, images = SCORES[slimmed.score], slimmed.images.get("test")
    accuracy = describe_accuracy(score, slimmed.test_accuracy, slimmed.dense_test_accuracy, images)
    speed = describe_speed(load_config(slimmed.folder).speed)
    return f"{slimmed.budget_label}: {'; '.join(filter(None, [accuracy, speed]))}"
